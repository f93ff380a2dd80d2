"""The one model of a provider that this service calls."""

from genkit import Action, ActionKind, Plugin
from genkit.plugin_api import ActionMetadata


class OneModel(Plugin):
    """Offers models of a provider's plugin without its start-up.

    A plugin's `init` may list the provider's catalogue over the network, and Genkit remembers its first outcome,
    failure and cancellation included, for the life of the process. Resolving a model by name needs none of it, so
    a provider that is down at start-up is simply used once it is up.
    """

    def __init__(self, plugin: Plugin) -> None:
        self.name = plugin.name
        self._plugin = plugin

    async def init(self) -> list[Action]:
        """Nothing to do, nothing to fail."""
        return []

    async def resolve(self, action_type: ActionKind, name: str) -> Action | None:
        """The provider's model of that name, or None."""
        return await self._plugin.resolve(action_type, name)

    async def list_actions(self) -> list[ActionMetadata]:
        """No catalogue."""
        return []
