"""Fair shares between tenants: who was served least goes first (the virtual token counter of Sheng et al., OSDI 2024).

A tenant that comes back after a pause starts level with the others: nobody saves up service by being idle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .request import Request

PROMPT_WEIGHT = 1.0
"""What a prompt token counts."""

OUTPUT_WEIGHT = 2.0
"""What a generated token counts: it is served alone, where prompt tokens come in chunks (the paper's weights)."""


def charge(request: Request, start: int, end: int) -> float:
    """What serving the tokens from position `start` to `end` counts; those that were paid for before are free."""
    start = max(start, request.charged)
    of_prompt = max(0, min(end, request.num_prompt) - start)
    return PROMPT_WEIGHT * of_prompt + OUTPUT_WEIGHT * (max(0, end - start) - of_prompt)


def next_tenant(service: Mapping[str, float], waiting: Container[str]) -> str:
    """The tenant among `waiting` that was served least; of equals, the first by name."""
    return min((served, tenant) for tenant, served in service.items() if tenant in waiting)[1]


class FairShares:
    """Weighted tokens served to each tenant that has unfinished requests, and to idle ones that are ahead of those."""

    def __init__(self) -> None:
        self.service: dict[str, float] = {}
        self._unfinished: Counter[str] = Counter()
        self._floor = 0.0  # what a tenant starts from that comes when nobody else is there

    def join(self, tenant: str) -> None:
        """A request of `tenant` came."""
        if not self._unfinished[tenant]:
            level = min(
                (self.service[name] for name in self._unfinished if self._unfinished[name]), default=self._floor
            )
            self.service[tenant] = max(self.service.get(tenant, 0.0), level)
            idle = [name for name in self.service if not self._unfinished[name] and name != tenant]
            for name in idle:
                if self.service[name] <= level:  # it would start from the level anyway
                    del self.service[name]
                    del self._unfinished[name]
        self._unfinished[tenant] += 1

    def leave(self, tenant: str) -> None:
        """A request of `tenant` ended."""
        self._unfinished[tenant] -= 1
        if not any(self._unfinished.values()):
            self._floor = self.service[tenant]

    def serve(self, request: Request, start: int, end: int) -> None:
        """The tokens of `request` from position `start` to `end` were served."""
        self.service[request.tenant] += charge(request, start, end)
        request.charged = max(request.charged, end)
