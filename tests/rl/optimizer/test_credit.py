"""Credit per tag: tokens find their tag, and the gradient keeps its mean while its variance falls."""

from collections import defaultdict
from itertools import product

import numpy as np
import pytest
import torch

from recrl.envs.catalog import Catalog
from recrl.rewards import RewardEngine
from recrl.rl.optimizer.advantages import AdvantageBatch
from recrl.rl.optimizer.credit import count_tokens, spread, tag_positions
from recrl.rl.optimizer.problem import Problem
from recrl.rl.optimizer.rules import RULES


@pytest.mark.parametrize(
    ("pieces", "positions"),
    [
        (["milk\n", "bread\n", ""], [0, 1, 2]),
        (["mi", "lk", "\n", "bread", "\n", ""], [0, 0, 0, 1, 1, 2]),
        (["milk\n", "bread", ""], [0, 1, 1]),  # no break ends the last line
        (["milk\nbr", "ead\n", ""], [0, 1, 2]),  # a token spans a break
        (["milk\nbread\n", "tea"], [0, 2]),
        (["milk\n", "\n", " \n", "bread\n", ""], [0, 1, 1, 1, 2]),  # blank lines are no tags
        (["\n", "milk", "\n\n", "bread"], [0, 0, 0, 1]),
        (["milk\r\n", "bread", "\r", "\n", "tea"], [0, 1, 1, 2, 2]),
        (["milk\r", "\nbread\r", "\ntea"], [0, 1, 2]),
        (["", "milk\n", "", "bread\n", "", ""], [0, 0, 1, 1, 2, 2]),  # special tokens
        (["milk", "\u2028", "bread"], [0, 0, 1]),
        ([""], [0]),
        ([], []),
    ],
)
def test_a_token_stands_after_the_tags_that_were_complete_before_it(pieces, positions):
    assert tag_positions(pieces) == positions


def test_what_is_taken_off_at_a_token_never_depends_on_that_token_or_a_later_one():
    """The tags up to a token's position are the parser's whatever follows; else the gradient were biased."""
    catalog, generator = Catalog(("milk", "bread", "tea")), np.random.default_rng(0)
    alphabet = [
        "milk",
        "bread",
        "tea",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "\ntea",
        "milk\n",
        "",
        "\u2028",
        "\x0b",
    ]
    most = 0
    for _ in range(300):
        pieces = generator.choice(alphabet, size=8).tolist()
        for i, position in enumerate(tag_positions(pieces)):
            before = "".join(pieces[:i])
            first = catalog.parse(before).first(position)
            assert len(first.slots) == position
            for later in ("", "tea", "\n", "milk\n\nbread\n", "".join(pieces[i:])):
                assert catalog.parse(before + later).first(position) == first
            most = max(most, position)
            lines = before.splitlines(keepends=True)
            unfinished = bool(lines) and len((before + ".").splitlines()) == len(lines)
            assert position == sum(bool(line.strip()) for line in lines[: len(lines) - unfinished])
    assert most >= 4


def test_a_line_of_byte_fragments_is_not_counted():
    """They decode to U+FFFD one by one, but may join to a space that the parser takes for an empty line."""
    text = "\u00a0\nmilk\n"
    pieces = [bytes([byte]).decode(errors="replace") for byte in "\u00a0".encode()] + ["\n", "milk\n", ""]
    assert Catalog(("milk",)).parse(text).slots == (0,)
    assert tag_positions(pieces) == [0, 0, 0, 0, 1]


def test_tokens_are_counted_per_position():
    counts = count_tokens([[0, 0, 0, 1, 1, 2], [0, 2], []], 4)
    assert (counts.dtype, counts.tolist()) == (torch.float32, [[3, 2, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]])


def test_each_token_gets_the_advantage_of_its_position_and_padding_gets_nothing():
    advantages = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], dtype=torch.float64)
    tokens = spread(advantages, [[0, 0, 2], [1], []], 4)
    assert tokens.dtype == torch.float64
    assert tokens.tolist() == [[1, 1, 3, 0], [5, 0, 0, 0], [0, 0, 0, 0]]


# --- unbiasedness, by enumerating all answers of a small policy ---

LONGEST = 3
REWARDS = ("recall", "novelty", "diversity")
PROBLEM = Problem.build(
    "recall",
    ["novelty <= 0.4 (mean)", "diversity >= 0.5 (mean, unit=0.25)"],
    dict.fromkeys(REWARDS, (0.0, 1.0)),
)
PULLS = np.array([1 / 0.5, -0.7 / 0.5, 1.3 / 0.25])  # of the three rewards at these multipliers
MULTIPLIERS = torch.tensor([0.7, 1.3], dtype=torch.float64)


def moments(problem, multipliers, answers, probability, score, rewards, running=None):
    """Mean and total variance of the gradient estimate on groups of two answers, over all pairs of answers.

    Args:
        answers: Pieces of every answer that there is.
        probability: `[answer]`.
        score: Gradient of the log-probability of each token, `[answer, token, parameter]`.
        rewards: `[answer, reward]`.
        running: `[answer, position, reward]`; None credits the whole answer.
    """
    pairs = np.array(list(product(range(len(answers)), repeat=2)))
    weight, tags, tokens = probability[pairs].prod(axis=1), {}, score.shape[1]
    if running is not None:
        positions = [tag_positions(answers[i]) for i in pairs.ravel()]
        counted = count_tokens(positions, running.shape[1]).unflatten(0, (-1, 2))
        tags = {"running": torch.tensor(running[pairs]), "tokens": counted}
    units = problem.declared_units()
    found = RULES["lagrangian"](
        AdvantageBatch(torch.tensor(rewards[pairs]), problem, multipliers, units, **tags)
    )
    x = found.values * found.divisor
    if running is None:
        x = x[..., None].expand(-1, -1, tokens)
    else:
        x = spread(x.flatten(0, 1), positions, tokens).unflatten(0, (-1, 2))
    gradients = np.einsum("pst,pstd->pd", x.numpy(), score[pairs]) / 2
    mean = weight @ gradients
    return mean, weight @ (gradients**2).sum(axis=1) - (mean**2).sum()


class Toy:
    """A softmax policy with a logit for each token after each prefix, and random rewards of its answers.

    Recall adds up over distinct tags, novelty is a mean over the list, diversity judges the whole set; the
    first two are credited per tag. The empty piece ends an answer, as does the third token.
    """

    def __init__(self, pieces):
        generator = np.random.default_rng(0)
        sequences = [s for n in range(1, LONGEST + 1) for s in product(pieces, repeat=n)]
        self.answers = [s for s in sequences if "" not in s[:-1] and (s[-1] == "" or len(s) == LONGEST)]
        prefixes = list(dict.fromkeys(s[:t] for s in self.answers for t in range(len(s))))
        policy = {prefix: generator.dirichlet(np.ones(len(pieces))) for prefix in prefixes}
        self.probability = np.array(
            [np.prod([policy[s[:t]][pieces.index(s[t])] for t in range(len(s))]) for s in self.answers]
        )
        # Gradient of the log-probability of each token, [answer, token, logit].
        self.score = np.zeros((len(self.answers), LONGEST, len(prefixes), len(pieces)))
        for i, answer in enumerate(self.answers):
            for t, piece in enumerate(answer):
                self.score[i, t, prefixes.index(answer[:t])] = (
                    np.eye(len(pieces))[pieces.index(piece)] - policy[answer[:t]]
                )
        self.score = self.score.reshape(len(self.answers), LONGEST, -1)

        worth, novel, judged = (defaultdict(lambda: generator.uniform(0, 1)) for _ in range(3))
        lines = [tuple(line for line in "".join(s).splitlines() if line.strip()) for s in self.answers]

        def credited(tags):
            return [
                sum(worth[tag] for tag in dict.fromkeys(tags)) / 3,
                np.mean([novel[tag] for tag in tags] or [0.0]),
                0.0,
            ]

        # Rewards of each answer, and what they give to its first 0, 1, 2, 3 tags.
        self.rewards = np.array([credited(tags) for tags in lines])
        self.rewards[:, 2] = [judged[tags] for tags in lines]
        self.running = np.array([[credited(tags[:p]) for p in range(LONGEST + 1)] for tags in lines])

    def exact(self):
        """Gradient of E[X], X = sum of the rewards times their pulls."""
        return np.einsum("n,n,ntd->d", self.probability, self.rewards @ PULLS, self.score)

    def estimate(self, running=None):
        pieces, given = self.answers, (self.probability, self.score, self.rewards)
        return moments(PROBLEM, MULTIPLIERS, pieces, *given, running)


# A token a tag; and tags that take several tokens, of which one ends a line and begins the next.
VOCABULARIES = {"a token a tag": ["a\n", "b\n", "c\n", ""], "tokens across breaks": ["a\n", "b", "\nc", ""]}


@pytest.fixture(scope="module", params=VOCABULARIES)
def toy(request):
    return Toy(VOCABULARIES[request.param])


def test_both_credits_have_the_exact_gradient_as_their_mean(toy):
    assert len(toy.answers) == 1 + 3 + 9 + 27
    assert toy.probability.sum() == pytest.approx(1, abs=1e-12)
    exact = toy.exact()
    assert np.abs(exact).max() > 0.1
    np.testing.assert_allclose(toy.estimate()[0], exact, rtol=0, atol=1e-10)
    np.testing.assert_allclose(toy.estimate(toy.running)[0], exact, rtol=0, atol=1e-10)


def test_crediting_a_tag_with_its_own_increment_alone_would_be_biased(toy):
    """The mutation that the test above must notice: what a tag does for later ones would be lost."""
    later = np.concatenate([toy.running[:, 1:], toy.running[:, -1:]], axis=1)
    credited = np.array([1.0, 1.0, 0.0])
    myopic = (toy.rewards[:, None] - (later - toy.running)) * credited
    assert np.abs(toy.estimate(myopic)[0] - toy.exact()).max() > 0.01


def test_taking_off_what_the_tag_itself_gave_would_be_biased(toy):
    later = np.concatenate([toy.running[:, 1:], toy.running[:, -1:]], axis=1)
    assert np.abs(toy.estimate(later)[0] - toy.exact()).max() > 0.01


# --- variance, by enumerating all lists of four tags, with the rewards that ship ---


def list_variance(constraints, multipliers, credited):
    """Total variance of the gradient over all lists of four tags, by whole answer and per tag.

    Each slot chooses among three tags of its own: one that will be bought, one that is novel, one neither.
    """
    slots = 4
    catalog = Catalog([f"{kind} {slot}" for slot in range(slots) for kind in ("bought", "novel", "neither")])
    engine = RewardEngine(
        ["recall", "novelty"], resources={"catalog": catalog, "slots": slots}, columns=["target", "lookback"]
    )
    choices = np.array(list(product(range(3), repeat=slots)))
    policy = np.random.default_rng(0).dirichlet(np.full(3, 8.0), slots)
    probability = policy[range(slots), choices].prod(axis=1)
    score = np.zeros((len(choices), slots, slots, 3))
    score[:, range(slots), range(slots)] = np.eye(3)[choices] - policy
    lists = choices + 3 * np.arange(slots)
    texts, n = [catalog.render(tags) for tags in lists], len(lists)
    novel = range(1, len(catalog), 3)
    columns = {
        "target": [range(0, len(catalog), 3)] * n,
        "lookback": [[tag for tag in range(len(catalog)) if tag not in novel]] * n,
    }
    rewards = engine.score([""] * n, texts, columns, n).astype(float)
    running = engine.score_prefixes([""] * n, texts, columns, slots + 1).astype(float)
    running *= [name in credited for name in engine.names]
    problem = Problem.build("recall", constraints, engine.ranges)
    lam = torch.tensor(multipliers, dtype=torch.float64)
    pieces = [text.splitlines(keepends=True) for text in texts]
    given = (problem, lam, pieces, probability, score.reshape(n, slots, -1), rewards)
    (mean, sequence), (tag_mean, tag) = moments(*given), moments(*given, running)
    np.testing.assert_allclose(tag_mean, mean, rtol=0, atol=1e-10)
    return sequence, tag


def test_crediting_tags_with_a_reward_that_adds_up_lowers_the_variance():
    sequence, tag = list_variance([], [], {"recall"})
    assert tag < 0.75 * sequence


@pytest.mark.parametrize("price", [1.0, 2.0])
def test_crediting_tags_lowers_the_variance_with_a_reward_that_is_a_mean_over_the_list(price):
    """The mean over the first tags is no share of the answer's: taken off whole, it would add noise."""
    sequence, tag = list_variance(["novelty >= 0.3 (mean)"], [price], {"recall", "novelty"})
    assert tag < 0.75 * sequence
