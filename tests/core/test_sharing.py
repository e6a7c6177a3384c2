import random

from clusterray.core.costs import CostMap
from clusterray.core.entities import Frame, Job, Node
from clusterray.core.model import JobId, NodeId, PovrayClass, Rect
from clusterray.core.sharing import Leaf, Shares, share_out
from tests.core.world import picture, request


def served(shares: Shares) -> list[str]:
    if isinstance(shares, Leaf):
        return [shares.node.id]
    return served(shares.keep) + served(shares.rest)


def frame(columns: int, rows: int, numbers: random.Random) -> Frame:
    width, height = 32 * columns, 32 * rows
    job = Job(JobId("j1"), 1, request(shape=picture(width, height)), 0.0)
    made = Frame(job, 0, Rect(0, 0, width, height))
    costs = [numbers.expovariate(1.0) ** 3 + 1e-6 for _ in range(columns * rows)]
    made.costs = CostMap.of(width, height, columns, costs)
    return made


def node(number: int, numbers: random.Random) -> Node:
    made = Node(NodeId(f"n{number}"), f"n{number}", numbers.choice((1, 2, 4)), PovrayClass("3.7"))
    made.thread_speed = numbers.choice((0.3, 1.0, 3.0))
    return made


def test_who_was_to_be_served_is_and_nobody_twice() -> None:
    # Small pictures, of which few blocks cost nearly all: parts of it cannot be cut any more
    # before there is one for each node.
    numbers = random.Random(1)
    for _ in range(400):
        small = frame(numbers.randint(1, 12), numbers.randint(1, 8), numbers)
        nodes = [node(number, numbers) for number in range(numbers.randint(2, 8))]
        found = served(share_out(small, small.area, nodes))
        assert nodes[0].id in found
        assert len(set(found)) == len(found)
