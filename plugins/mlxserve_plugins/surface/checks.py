"""What every surface refuses in the same words."""

from mlxserve_hookspecs import ModelCard, RequestError
from mlxserve_plugins.surface.notes import Notes


def check_model(name: str | None, card: ModelCard, notes: Notes | None = None) -> None:
    """Return if ``name`` is served, was left out, or need not be right.

    Args:
        name: What the client calls the model.
        card: The model.
        notes: Told when the client means another.

    Raises:
        RequestError: It is not served (status 404).
    """
    if name is None or name == card.id or name in card.aliases:
        return
    if not card.any_name:
        message = f"the model {name!r} is not served here: the model is {card.id!r}"
        raise RequestError(status=404, message=message, param="model", code="model_not_found")
    if notes is not None:
        notes.add("model", "read as another", card.id)


def refusal(param: str, message: str, code: str | None = "invalid_value") -> RequestError:
    """Return a status 400 that names a field."""
    return RequestError(status=400, message=message, param=param, code=code)
