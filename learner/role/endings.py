"""Why a learner's session ends, and another one begins."""


class AsideError(Exception):
    """The state does not belong to the group's history; a snapshot has to replace it."""


class FencedError(Exception):
    """Another learner leads in a higher term."""
