"""How much work one validation may cost, counted in units, whatever the clock says.

A count gives the same answer on a fast and on a slow machine. A unit is what a
shared host does in about a tenth of a microsecond.
"""


class TooCostly(Exception):
    """All units are spent; the work stops here."""


class WorkMeter:
    """Counts down. Whoever does work in a loop spends before, or as, it is done."""

    __slots__ = ("left", "units")

    def __init__(self, units: int) -> None:
        self.units = self.left = units

    def spend(self, units: int) -> None:
        """Raises TooCostly when there is not so much left."""
        self.left -= units
        if self.left < 0:
            raise TooCostly
