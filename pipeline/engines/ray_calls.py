"""Calls from workers on a Ray cluster to an actor on the driver's node."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Self, TypeVar

from pipeline.engines.ray_place import WorkerLostError

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class DriverCall(Generic[Arguments, Answer]):
    """A function that workers call, and that runs in a process on the driver's node; it pickles.

    The process ends with the driver.

    Attributes:
        actor: An actor of `_Caller`.
    """

    actor: Any

    @classmethod
    def of(cls, ray: Any, make_function: Callable[[], Callable[Arguments, Answer]]) -> Self:
        """Start the process.

        Args:
            ray: The module, connected.
            make_function: Makes the function, in that process; it must pickle.
        """
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_Caller)
        return cls(actor.remote(make_function))

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        """What the function returns.

        Raises:
            WorkerLostError: the process is gone.
            Exception: what the function raises.
        """
        import ray

        try:
            answer: Answer = ray.get(self.actor.call.remote(*args, **kwargs))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayActorError:
            raise WorkerLostError("the process that it reports to is gone") from None
        return answer


class _Caller:
    """The actor."""

    def __init__(self, make_function: Callable[[], Callable[..., Any]]) -> None:
        self._function = make_function()

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        return self._function(*args, **kwargs)
