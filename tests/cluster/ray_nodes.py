"""A Ray of two nodes of this machine, of one core each, for tests: prints its address.

At each line of stdin the last node dies, and another one starts; at the end of stdin the cluster ends.
"""

import sys

from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
last = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for _ in sys.stdin:
    cluster.remove_node(last)
    last = cluster.add_node(num_cpus=1)
cluster.shutdown()
