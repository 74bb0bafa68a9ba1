r"""Matching the patterns of strangers in time that is linear in the text.

Python's `re` tries one way after the other and has no time limit: `^(a+)+$`
keeps it busy for hours on forty characters. Here a pattern becomes an automaton
that is in all its possible states at once and reads each character once, so
that there is no pattern to be afraid of. The sets of states that texts really
lead to are remembered (a DFA built as it is needed), which makes an ordinary
match as fast as one of `re`.

`^`, `$`, `\b` and lookarounds of one character are conditions on the characters
left and right of a place. Longer lookaheads are possible where they stand
directly after a `^` that begins the pattern: each is then a pattern of its own.
"""

import bisect
import functools

from taskmanager.params import pattern_syntax as syntax
from taskmanager.params.pattern_syntax import CharSet, PatternRefused
from taskmanager.params.work_meter import WorkMeter

MAX_STATES = 2_000
MAX_CONDITIONS = 8
PATTERN_CACHE_SIZE = 256

# What all patterns of the process may remember, in steps, characters and states of positions
# (about 100 bytes each); beyond it everything is forgotten and found again as it is needed.
MAX_REMEMBERED = 200_000
MAX_CHARACTERS = 512  # of one pattern

# Units per text, per character, and per state that a new step looks at.
_COST_OF_TEXT = 10
_COST_OF_STEP = 20
_COST_OF_STATE = 5

# The instructions: a state is one of these.
_CHARS, _FORK, _CONDITION, _FOUND = range(4)

# Which of the pattern's conditions hold for a character; None beyond the edges of the text.
_Traits = tuple[bool, ...] | None


class Pattern:
    """A compiled pattern; its memory may be shared by threads, who at worst repeat some work."""

    def __init__(self, text: str) -> None:
        conditions, tree = _split_off_lookaheads(syntax.parse(text))
        self._main = _Automaton(tree)
        self._conditions = [(_Automaton(part), is_wanted) for part, is_wanted in conditions]
        self.states = sum(
            automaton.states for automaton in (self._main, *(part for part, _ in self._conditions))
        )

    def found_in(self, text: str, meter: WorkMeter) -> bool:
        """Whether the pattern matches somewhere in `text`. Raises TooCostly."""
        for part, is_wanted in self._conditions:
            if part.found_in(text, meter) is not is_wanted:
                return False
        return self._main.found_in(text, meter)


@functools.lru_cache(maxsize=PATTERN_CACHE_SIZE)
def compile_pattern(text: str) -> Pattern:
    """Raises PatternRefused, whose message finishes the sentence 'The pattern …'."""
    return Pattern(text)


def _split_off_lookaheads(tree: syntax.Node) -> tuple[list[tuple[syntax.Node, bool]], syntax.Node]:
    parts = tree.parts if isinstance(tree, syntax.Sequence) else (tree,)
    start = parts[0] if parts else None
    looks: list[tuple[syntax.Node, bool]] = []
    if isinstance(start, syntax.Edge) and start.is_start:
        while isinstance(part := parts[1:2] and parts[1], syntax.Look) and part.is_ahead:
            looks.append((syntax.Sequence((start, part.body)), part.is_wanted))
            parts = (start, *parts[2:])
    return looks, syntax.Sequence(parts)


class _Position:
    """A set of states together with the character before it: one state of the DFA."""

    __slots__ = ("at_end", "before", "found", "steps", "waiting")

    def __init__(self, waiting: tuple[int, ...], before: _Traits, found: bool | None) -> None:
        self.waiting = waiting
        self.before = before
        self.found = found  # True or False once nothing that follows can change it
        self.at_end: bool | None = None
        self.steps: dict[int, _Position] = {}


_FOUND_IT = _Position((), None, True)
_LOST_IT = _Position((), None, False)


class _Memory:
    """Who remembers something, and how much all of them do."""

    def __init__(self) -> None:
        self.entries = 0
        self.holders: list[_Automaton] = []

    def add(self, entries: int) -> None:
        self.entries += entries
        if self.entries > MAX_REMEMBERED:
            holders, self.holders, self.entries = self.holders, [], 0
            for holder in holders:
                holder.forget()


_MEMORY = _Memory()


class _Automaton:
    """One tree as instructions, and the positions that texts have led to."""

    def __init__(self, tree: syntax.Node) -> None:
        self.states = 0
        self._kind: list[int] = []
        self._chars: list[CharSet | None] = []
        self._condition: list[syntax.Node | None] = []
        self._next: list[tuple[int, ...]] = []
        self._trait_sets: list[CharSet] = []
        self._trait: dict[int, int] = {}
        if _size(tree) > MAX_STATES:
            raise PatternRefused(
                f"has more than {MAX_STATES} parts once its counts are written out; limit the "
                "length with maxLength and write * or + instead of a large count, and use enum "
                "for a long list of words"
            )
        self._start = self._build(tree, self._add(_FOUND))
        self._only_at_start = self._begins_only_at_start()
        self.states = len(self._kind)
        self._borders = self._find_borders()
        self.forget()

    # Building

    def _add(self, kind: int, following: tuple[int, ...] = ()) -> int:
        self._kind.append(kind)
        self._next.append(following)
        self._chars.append(None)
        self._condition.append(None)
        return len(self._kind) - 1

    def _build(self, node: syntax.Node, following: int) -> int:
        """Adds the states of `node`, which lead to `following`; returns the first of them."""
        if isinstance(node, CharSet):
            state = self._add(_CHARS, (following,))
            self._chars[state] = node
            return state
        if isinstance(node, syntax.Sequence):
            for part in reversed(node.parts):
                following = self._build(part, following)
            return following
        if isinstance(node, syntax.Choice):
            return self._add(
                _FORK, tuple(self._build(option, following) for option in node.options)
            )
        if isinstance(node, syntax.Repeat):
            return self._build_repeat(node, following)
        if isinstance(node, syntax.Look):
            raise PatternRefused(
                "looks ahead or behind at more than one character, which is possible only "
                'directly after a ^ that begins the pattern; use "allOf" or "not" with a pattern '
                "of its own"
            )
        state = self._add(_CONDITION, (following,))
        self._condition[state] = node
        if isinstance(node, syntax.Neighbour):
            self._trait[state] = self._trait_of(node.chars)
        elif isinstance(node, syntax.Boundary):
            self._trait[state] = self._trait_of(syntax.WORD)
        return state

    def _build_repeat(self, node: syntax.Repeat, following: int) -> int:
        copies = node.least
        if node.most is None:
            loop = self._add(_FORK)
            again = self._build(node.body, loop)
            self._next[loop] = (again, following)
            # The last copy that must be there is the one that may be repeated.
            following, copies = (again, copies - 1) if copies else (loop, 0)
        else:
            after = following
            for _ in range(node.most - node.least):
                following = self._add(_FORK, (self._build(node.body, following), after))
        for _ in range(copies):
            following = self._build(node.body, following)
        return following

    def _trait_of(self, chars: CharSet) -> int:
        if chars not in self._trait_sets:
            if len(self._trait_sets) == MAX_CONDITIONS:
                raise PatternRefused(
                    f"has more than {MAX_CONDITIONS} different lookarounds; use "
                    '"allOf" with several patterns'
                )
            self._trait_sets.append(chars)
        return self._trait_sets.index(chars)

    def _find_borders(self) -> list[int]:
        """Where characters begin to be treated differently."""
        sets = {chars for chars in (*self._chars, *self._trait_sets) if chars is not None}
        borders = {0}
        for chars in sets:
            for low, high in chars.ranges:
                borders.update((low, high + 1))
        return sorted(borders)

    # Running

    def forget(self) -> None:
        self._is_holder = False
        self._positions: dict[tuple[tuple[int, ...], _Traits], _Position] = {}
        self._class_of: dict[str, int] = {}
        self._first = _Position((self._start,), None, None)

    def found_in(self, text: str, meter: WorkMeter) -> bool:
        meter.spend(_COST_OF_TEXT + len(text))
        position = self._first
        class_of = self._class_of
        for character in text:
            group = class_of.get(character)
            if group is None:
                group = self._classify(character)
            following = position.steps.get(group)
            if following is None:
                following = self._step(position, group, meter)
            if following.found is not None:
                return following.found
            position = following
        if position.at_end is None:
            meter.spend(_COST_OF_STEP)
            position.at_end = self._closure(position, None, meter) is None
        return position.at_end

    def _classify(self, character: str) -> int:
        group = bisect.bisect_right(self._borders, ord(character)) - 1
        if len(self._class_of) < MAX_CHARACTERS:
            self._class_of[character] = group
            self._remember(1)
        return group

    def _remember(self, entries: int) -> None:
        if not self._is_holder:
            self._is_holder = True
            _MEMORY.holders.append(self)
        _MEMORY.add(entries)

    def _step(self, position: _Position, group: int, meter: WorkMeter) -> _Position:
        """The position after a character of this group, remembered for the next time."""
        meter.spend(_COST_OF_STEP)
        code_point = self._borders[group]
        traits = tuple(code_point in chars for chars in self._trait_sets)
        reached = self._closure(position, traits, meter)
        if reached is None:
            following = _FOUND_IT
        else:
            targets = {
                self._next[state][0]
                for state, chars in ((state, self._chars[state]) for state in reached)
                if chars is not None and code_point in chars
            }
            if not self._only_at_start:
                targets.add(self._start)
            following = self._position(tuple(sorted(targets)), traits)
        position.steps[group] = following
        self._remember(1)
        return following

    def _position(self, waiting: tuple[int, ...], before: _Traits) -> _Position:
        if not waiting:
            return _LOST_IT
        known = self._positions.get((waiting, before))
        if known is None:
            known = self._positions[waiting, before] = _Position(waiting, before, None)
            self._remember(len(waiting))
        return known

    def _closure(self, position: _Position, after: _Traits, meter: WorkMeter) -> list[int] | None:
        """The states that wait for a character, between the one before and the one after.

        None where the pattern is found at this place.
        """
        seen: set[int] = set()
        waiting: list[int] = []
        ahead = list(position.waiting)
        while ahead:
            state = ahead.pop()
            if state in seen:
                continue
            seen.add(state)
            kind = self._kind[state]
            if kind == _FOUND:
                return None
            if kind == _CHARS:
                waiting.append(state)
            elif kind == _FORK or self._holds(state, position.before, after):
                ahead.extend(self._next[state])
        meter.spend(_COST_OF_STATE * len(seen))
        return waiting

    def _holds(self, state: int, before: _Traits, after: _Traits) -> bool:
        node = self._condition[state]
        if isinstance(node, syntax.Edge):
            return (before if node.is_start else after) is None
        if isinstance(node, syntax.Neighbour):
            side = after if node.is_ahead else before
            return (side is not None and side[self._trait[state]]) is node.is_wanted
        assert isinstance(node, syntax.Boundary)  # noqa: S101
        is_word = [side is not None and side[self._trait[state]] for side in (before, after)]
        return (is_word[0] is not is_word[1]) is node.is_wanted

    def _begins_only_at_start(self) -> bool:
        """Whether every way into the pattern passes a `^`."""
        seen: set[int] = set()
        ahead = [self._start]
        while ahead:
            state = ahead.pop()
            if state in seen:
                continue
            seen.add(state)
            if self._kind[state] in (_FOUND, _CHARS):
                return False
            node = self._condition[state]
            if not (isinstance(node, syntax.Edge) and node.is_start):
                ahead.extend(self._next[state])
        return True


def _size(node: syntax.Node) -> int:
    """How many states `node` becomes, at most, without making them."""
    if isinstance(node, syntax.Sequence):
        return sum(_size(part) for part in node.parts)
    if isinstance(node, syntax.Choice):
        return 1 + sum(_size(option) for option in node.options)
    if isinstance(node, syntax.Repeat):
        copies = max(node.least, 1) if node.most is None else node.most
        return (1 + _size(node.body)) * copies
    return 1
