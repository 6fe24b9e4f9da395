"""Weights to start a training from: those of a smaller network may begin a larger one."""

from torch import Tensor, nn

from neuroreg import checkpoints
from neuroreg.errors import DataError


def load_initial(network: nn.Module, record: checkpoints.WeightRecord) -> None:
    """Put the record's tensors into ``network``, which may have more: other modules, or more input channels.

    New input channels come after the old ones and start with weights 0, so that the larger network begins as the
    smaller one. Modules the record does not know keep their own weights. Raises DataError when the record has
    tensors that the network has not, or of unlike shapes.
    """
    state = network.state_dict()
    for name, value in checkpoints.load_tensors(record).items():
        alike = name in state and value.is_floating_point() == state[name].is_floating_point()
        if not alike or not _fits(value, state[name]):
            raise DataError(
                f"{name} of the initial weights does not fit this network",
                file=record.path,
                remedy="name weights of the same method whose network is the same or smaller",
            )
        state[name] = _widened(value.to(state[name].dtype), state[name])
    network.load_state_dict(state)


def _fits(value: Tensor, into: Tensor) -> bool:
    if value.shape == into.shape:
        return True
    alike = value.ndim == into.ndim >= 2 and value.shape[0] == into.shape[0]
    return alike and value.shape[1] < into.shape[1] and value.shape[2:] == into.shape[2:]


def _widened(value: Tensor, into: Tensor) -> Tensor:
    if value.shape == into.shape:
        return value
    wide = into.new_zeros(into.shape)
    wide[:, : value.shape[1]] = value
    return wide
