"""A provider's plugin, reduced to resolving models by name."""

from genkit import Action, ActionKind, Plugin
from genkit.plugin_api import ActionMetadata


class LazyPlugin(Plugin):
    """Offers models of a provider's plugin without its start-up.

    A plugin's `init` may list the provider's catalogue over the network. Genkit caches the first result for the life of
    the process, also a failure or a cancellation. Resolving a model by name needs no `init`. So the service can start
    while the provider is down, and uses it once it is up.
    """

    def __init__(self, plugin: Plugin) -> None:
        self.name = plugin.name
        self._plugin = plugin

    async def init(self) -> list[Action]:
        """Do nothing."""
        return []

    async def resolve(self, action_type: ActionKind, name: str) -> Action | None:
        return await self._plugin.resolve(action_type, name)

    async def list_actions(self) -> list[ActionMetadata]:
        return []
