"""StarCraft-like battles."""
