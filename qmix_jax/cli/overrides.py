"""Checks the names in overrides before Hydra does, whose errors take many lines."""

import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import Any

from hydra.core.default_element import GroupDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from qmix_jax.build import REGISTRIES, environments
from qmix_jax.import_path import is_import_path
from qmix_jax.settings import ConfigError, field_names, nearest, require, require_one_of
from qmix_jax.sweep.launchers import LAUNCHERS

OTHER_NAMES = {
    "alg": "algorithm",
    "alg_name": "algorithm",
    "batch_size_run": "rollout.num_envs",
    "buffer_batch_size": "learner.batch_size",
    "buffer_size": "replay.capacity",
    "env_name": "env",
    "eps_decay": "exploration.decay_env_steps",
    "eps_finish": "exploration.finish",
    "eps_start": "exploration.start",
    "epsilon": "exploration.start",
    "epsilon_anneal_time": "exploration.decay_env_steps",
    "epsilon_finish": "exploration.finish",
    "epsilon_start": "exploration.start",
    "grad_norm_clip": "learner.max_grad_norm",
    "hidden_dim": "agent.hidden_size",
    "hypernet_embed": "algorithm.hypernet_size",
    "lambda": "learner.td_lambda",
    "learning_starts": "learner.start_env_steps",
    "log_interval": "evaluation.every_env_steps",
    "lr": "learner.learning_rate",
    "lr_linear_decay": "learner.final_learning_rate",
    "map_name": "env.map",
    "mixer": "algorithm",
    "mixer_embedding_dim": "algorithm.embed_size",
    "mixer_hypernet_hidden_dim": "algorithm.hypernet_size",
    "mixer_init_scale": "algorithm.init_scale",
    "mixing_embed_dim": "algorithm.embed_size",
    "n_envs": "rollout.num_envs",
    "num_epochs": "learner.env_steps_per_update",
    "num_minibatches": "learner.batch_size",
    "obs_agent_id": "agent.use_agent_id",
    "obs_last_action": "agent.use_last_action",
    "optim_eps": "learner.adam_epsilon",
    "rew_scale": "learner.reward_scale",
    "rnn_hidden_dim": "agent.hidden_size",
    "save_model_interval": "checkpoint.every_env_steps",
    "scenario": "env.map",
    "t_max": "total_env_steps",
    "target_update_interval": "target.every_env_steps",
    "target_update_interval_or_tau": "target.every_env_steps",
    "test_interval": "evaluation.every_env_steps",
    "test_nepisode": "evaluation.episodes",
    "test_num_envs": "evaluation.episodes",
    "timesteps": "total_env_steps",
    "total_timesteps": "total_env_steps",
    "use_tensorboard": "logging.tensorboard",
}
"""Names of settings in other programs (PyMARL, JaxMARL, ...), in lower case -> ours."""


MANY = {"hydra.launcher": "hydra/launcher", "hydra.sweeper": "hydra/sweeper"}
"""The sections of settings about many jobs, and their groups."""


def environment_of(name: str) -> str:
    """The overrides for the environment with this map, task, game, or name elsewhere; '' where none has it."""
    lines: dict[str, str] = {}
    for env, known in environments().items():
        lines |= dict.fromkeys(known.other_names, f"env={env}")
        lines |= {each.lower(): f"env={env} env.{known.variant}={each}" for each in known.variants}
    word = re.sub(rf"^({'|'.join(environments())})_|_v\d+$", "", name.lower())  # JaxMARL's MPE_simple_spread_v3
    match = difflib.get_close_matches(word, lines, 1, 0.85)
    return lines[match[0]] if match else ""


class OverrideChecker:
    """Knows each name that an override may use: groups, their choices, and the settings of the chosen ones.

    `loader` is Hydra's config loader, `config` the name of the config that it begins with; `compose` makes a config
    from overrides.
    """

    def __init__(self, loader: Any, config: str, compose: Callable[[list[str]], DictConfig]):
        self._loader, self._config = loader, config
        self._compose, self._composed = compose, cache(lambda lines: compose([*lines]))
        self._settings = cache(self._settings_of)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Group -> its choices."""
        names = [group for group in self._loader.list_groups("") if group != "hydra"]
        return {name: self._loader.repository.get_group_options(name) for name in names}

    @cached_property
    def default_groups(self) -> list[str]:
        """The groups of which one choice is always made; the others need a `+`."""
        if not self._loader.repository.config_exists(self._config):
            self._compose([])  # raises with Hydra's words
        chosen, seen, configs = set(), set(), [self._config]
        while configs:
            config = configs.pop()
            seen.add(config)
            for default in getattr(self._loader.repository.load_config(config), "defaults_list", ()):
                if isinstance(default, GroupDefault):
                    chosen.add((default.group or "").lstrip("/"))
                elif (path := (default.path or "").lstrip("/")) not in seen:
                    configs.append(path)
        return [group for group in self.groups if group in chosen]

    def parse(self, lines: Iterable[str]) -> list[Override]:
        """Overrides as Hydra reads them."""
        return [self._parse(line) for line in lines]

    def _parse(self, line: str) -> Override:
        try:
            return self._read(line)
        except HydraException as error:
            reason = f": {str(error).splitlines()[0]}"
            if "=" in line:
                raise ConfigError(f"cannot read '{line}'{self._in_quotes(line) or reason}") from error
            raise ConfigError(f"'{line}' is no setting{self._hint_for_word(line)}") from error

    def _read(self, line: str) -> Override:
        return OverridesParser.create(config_loader=self._loader).parse_overrides([line])[0]

    def _in_quotes(self, line: str) -> str:
        """Advice to quote the value, as a shell takes it; '' where that does not help."""
        name, _, value = line.partition("=")
        quoted = f'{name}="{os.path.expanduser(value)}"'  # in which Hydra would keep the ~
        try:
            self._read(quoted)
        except HydraException:
            return ""
        return f" as a value or several; a word with such characters is written {shlex.quote(quoted)}"

    def _hint_for_word(self, word: str) -> str:
        for group, options in self.groups.items():
            if word in options:
                return f" (did you mean '{self._plus(group)}{group}={word}'?)"
        if environment := environment_of(word):
            return f" (did you mean '{environment}'?)"
        return "; write NAME=VALUE"

    def _plus(self, name: str) -> str:
        return "+" if name in self.groups and name not in self.default_groups else ""

    def checked(self, overrides: list[Override]) -> DictConfig:
        """Hydra's config; raises ConfigError for the first unknown name, or for what Hydra refuses."""
        self._check_choices(overrides)
        try:
            config = self._compose([override.input_line or "" for override in overrides])
        except ConfigError:
            self.check(overrides)  # says it better
            raise
        if any(map(_prefix, overrides)):  # without, Hydra has refused what is unknown
            self.check(overrides)
        return config

    def check(self, overrides: list[Override]) -> None:
        """Raise ConfigError for the first unknown name."""
        chosen = self._check_choices(overrides)
        known = self._settings(tuple(override.input_line or "" for override in chosen))
        for override in overrides:
            if override not in chosen and not override.is_hydra_override():
                self._check_keys(override, known)

    def _check_choices(self, overrides: list[Override]) -> list[Override]:
        """The overrides that choose something; raises ConfigError for the first unknown choice."""
        chosen = [override for override in overrides if override.key_or_group in self.groups]
        for override in chosen:
            self._check_choice(override)
        return chosen

    def check_many(self, overrides: list[Override]) -> None:
        """Raise ConfigError for the first unknown launcher or sweeper, or setting of the chosen one."""
        for override in overrides:
            if (group := override.key_or_group) in MANY.values():
                require_one_of(group, str(override.value()), self._loader.get_group_options(group))
        groups = {*self.groups, *MANY.values()}
        chosen = [each for each in overrides if each.key_or_group in groups and not each.is_sweep_override()]
        for override in overrides:
            section, _, name = override.key_or_group.rpartition(".")
            if section in MANY and not _prefix(override):
                self._check_key_of_many(section, name, tuple(each.input_line or "" for each in chosen))

    def _check_key_of_many(self, section: str, name: str, chosen: tuple[str, ...]) -> None:
        config = self._composed(chosen).hydra
        known = [f"{section}.{each}" for each in config[section.removeprefix("hydra.")]]
        owners = [each for each in LAUNCHERS.names if name in field_names(LAUNCHERS[each].Settings)]
        choice = f"{MANY[section]}={config.runtime.choices[MANY[section]]}"
        if f"{section}.{name}" not in known and section == "hydra.launcher" and owners:
            raise ConfigError(f"{choice} has no setting '{name}'; it belongs to {MANY[section]}={'|'.join(owners)}")
        hint = nearest(f"{section}.{name}", known) or f"; {choice} has {', '.join(known)}"
        require(f"{section}.{name}" in known, f"unknown setting '{section}.{name}'{hint}")

    def _check_choice(self, override: Override) -> None:
        group, value = override.key_or_group, override.value()
        if group in self.default_groups:
            single = isinstance(value, str) and not override.is_delete()
            require(single, f"{override.input_line}: exactly one {group} is always chosen: write {group}=NAME")
        right = self._plus(group)
        for choice in value if isinstance(value, list) else [value]:
            is_file = "/" in str(choice) and self._loader.repository.config_exists(f"{group}/{choice}")
            if not (is_file or is_import_path(choice) or override.is_delete()):
                known = self._in_folders(group) if "/" in str(choice) else self.groups[group]
                if group == "env" and choice not in self.groups[group] and (line := environment_of(str(choice))):
                    raise ConfigError(f"env={choice} is not known (did you mean '{line}'?)")
                registry = REGISTRIES[group]() if group in REGISTRIES else None
                if registry and str(choice) not in self.groups[group]:
                    registry.require(str(choice), known)
                require_one_of(f"{right}{group}", str(choice), known)
        why = "adds to the defaults" if right else "is always chosen"
        is_right = override.is_delete() or _prefix(override) == right
        require(is_right, f"{group} {why}: write {right}{group}={override.get_value_element_as_str()}")

    def _in_folders(self, group: str) -> list[str]:
        """The choices of a group that are files in its folders, as `original/qtran`."""
        options = self._loader.repository.get_group_options
        return [
            f"{folder}/{each}" for folder in options(group, ObjectType.GROUP) for each in options(f"{group}/{folder}")
        ]

    def _check_keys(self, override: Override, known: dict[str, Any]) -> None:
        is_old = override.key_or_group == "agent.kind"
        require(not is_old, f"unknown setting 'agent.kind' (did you mean 'agent={override.value()}'?)")
        section, _, name = override.key_or_group.rpartition(".")
        group = f"{section}={{{name}:{override.get_value_element_as_str()}}}"
        require(not _is_null(known.get(section)), f"{section} is null; where it can be a group, write {group}")
        for key in _keys(override.key_or_group, override.value()):
            if key not in known and not _is_free(key, known):
                self._refuse_key(key, known)
        line = override.input_line or ""
        require(_prefix(override) != "+" or isinstance(override.value(), dict | list), f"{line}: write {line[1:]}")

    def _settings_of(self, chosen: tuple[str, ...]) -> dict[str, Any]:
        """Every dotted name under the chosen groups, sections too, with its value."""
        return dict(_flatten(self._composed(chosen)))

    def _has(self, group: str, choice: str, key: str) -> bool:
        """Whether a choice has a setting of its own; False where the choice does not work at all."""
        try:
            own = self._loader.repository.load_config(f"{group}/{choice}")
        except ConfigError:
            return False
        return own is not None and key in dict(_flatten(own.config))

    def _refuse_key(self, key: str, known: dict[str, Any]) -> None:
        section = key.split(".")[0]
        name = known.get(f"{section}.name")
        others = [choice for choice in self.groups.get(section, []) if name and choice != name and "/" not in choice]
        owners = [choice for choice in others if self._has(section, choice, key)]
        if owners:
            raise ConfigError(f"{section}={name} has no setting '{key}'; it belongs to {section}={'|'.join(owners)}")
        choices = [choice for choice in self.groups["env"] if "/" not in choice]
        envs = [choice for choice in choices if self._has("env", choice, f"env.{key}")]
        if envs and f"env.{key}" not in known:
            raise ConfigError(f"unknown setting '{key}' (did you mean 'env.{key}', with env={'|'.join(envs)}?)")
        hint = _suggest(key, [*known, *(f"{self._plus(group)}{group}" for group in self.groups)])
        raise ConfigError(f"unknown setting '{key}'{hint}")


def _prefix(override: Override) -> str:
    return "++" if override.is_force_add() else "+" if override.is_add() else ""


def _keys(key: str, value: Any) -> Iterable[str]:
    """The name that an override sets, and those within its value."""
    yield key
    for name, nested in value.items() if isinstance(value, dict) else ():
        yield from _keys(f"{key}.{name}", nested)


def _is_free(key: str, known: dict[str, Any]) -> bool:
    """Whether the name is within a setting that takes any names, or is null, where only the config knows which."""
    section = key.rpartition(".")[0]
    node = known.get(section)
    is_open = _is_null(node) or (isinstance(node, DictConfig) and node._get_node_flag("struct") is False)
    return is_open or (bool(section) and _is_free(section, known))


def _is_null(node: Any) -> bool:
    return node is not None and node._is_none()


def _flatten(config: DictConfig, path: str = "") -> Iterable[tuple[str, Any]]:
    for key in config:
        if path or key != "hydra":
            node = config._get_node(key)
            yield f"{path}{key}", node
            if isinstance(node, DictConfig) and not node._is_none():
                yield from _flatten(node, f"{path}{key}.")


def _suggest(key: str, known: list[str]) -> str:
    """` (did you mean ...?)`: the most similar name in the section, else anywhere, by initials, or as a part."""
    section, _, last = key.rpartition(".")
    leaves = {name.rpartition(".")[2]: name for name in known}
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    initials = {"".join(word[0] for word in leaf.split("_")): name for leaf, name in leaves.items() if "_" in leaf}
    parts = [name for leaf, name in leaves.items() if len(last) > 2 and last in leaf]
    found = [
        OTHER_NAMES.get(last.lower(), ""),
        *(siblings[leaf] for leaf in difflib.get_close_matches(last, siblings, 1)),
        *(leaves[leaf] for leaf in difflib.get_close_matches(last, leaves, 1)),
        initials.get(last, ""),
        *parts,
    ]
    match = next((name for name in found if name in known), None)
    if match:
        return f" (did you mean '{match}'?)"
    here = siblings or {name: name for name in known if "." not in name}
    return f"; known {f'in {section}' if siblings and section else 'here'}: {', '.join(here)}"
