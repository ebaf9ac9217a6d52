"""Names, dotted paths, files and entry points lead to a Reward; what cannot be used says why."""

import sys

import pytest
from typer.testing import CliRunner

from recrl.launch.cli import app
from recrl.rewards.base import Reward, RewardSpecError, completion_text
from recrl.rewards.registry import known, resolve, reward
from recrl.rewards.spec import RewardSpec

MODULE = """
from recrl.rewards.registry import reward

@reward("{name}", range=(0, 5), unit=0.5)
def graded(completions):
    return [1.0 for _ in completions]

def plain(completions, **kwargs):
    return [2.0 for _ in completions]

loaded = []
"""


@pytest.fixture
def reward_file(tmp_path):
    path = tmp_path / "house_rewards.py"
    path.write_text(MODULE.format(name=f"graded_{tmp_path.name}"))
    return path


def test_a_registered_name_resolves_to_its_declaration():
    found = resolve("recall")
    assert (found.name, found.low, found.high, found.per, found.unit) == ("recall", 0.0, 1.0, "tag", None)


def test_a_config_entry_renames_and_overrides():
    found = resolve(RewardSpec(name="r", use="recall", range=(-1, 2), unit=0.1, per="group"))
    assert (found.name, found.low, found.high, found.per, found.unit) == ("r", -1.0, 2.0, "group", 0.1)


def test_a_declaration_says_whether_it_can_be_served_and_an_entry_has_the_last_word():
    @reward("test_registry_served", range=(0, 1), serving=True)
    def served(completions, **columns):
        return [0.5 for _ in completions]

    assert resolve("test_registry_served").serving is True
    assert resolve(RewardSpec(name="r", use="test_registry_served", serving=False)).serving is False
    assert resolve(RewardSpec(name="r", use="test_registry_served")).serving is True
    assert resolve("recall").serving is None
    assert resolve("number_match").serving is False, "its column holds the known answer"
    with pytest.raises(ValueError, match="leave out serving"):
        RewardSpec(name="total", sum={"recall": 1.0}, serving=True)


def test_use_defaults_to_name():
    assert RewardSpec(name="recall").use == "recall"


def test_a_config_entry_refuses_unknown_fields():
    with pytest.raises(ValueError, match="wieght"):
        RewardSpec.model_validate({"name": "recall", "wieght": 1.0})


def test_the_decorator_leaves_the_function_callable():
    @reward("test_registry_plain_call", range=(0, 1))
    def half(completions):
        return [0.5 for _ in completions]

    assert half(["a", "b"]) == [0.5, 0.5]
    assert resolve("test_registry_plain_call").function is half


def test_two_functions_cannot_take_one_name():
    with pytest.raises(
        RewardSpecError, match=r"'recall' .* is taken by recrl\.rewards\.shipped\.tags\.recall"
    ):

        @reward("recall", range=(0, 1))
        def other(completions):
            return []


def test_defining_a_function_again_replaces_it():
    def define(high):
        @reward("test_registry_redefined", range=(0, high))
        def cell(completions):
            return []

    define(1)
    define(2)
    assert resolve("test_registry_redefined").high == 2


def test_a_file_path(reward_file, tmp_path):
    found = resolve(f"{reward_file}:graded")
    assert (found.name, found.high, found.unit) == (f"graded_{tmp_path.name}", 5.0, 0.5)
    assert found.function(["a"]) == [1.0]


def test_rewards_of_one_file_share_its_module(reward_file):
    graded = resolve(f"{reward_file}:graded").function
    plain = resolve(RewardSpec(name="plain", use=f"{reward_file}:plain", range=(0, 3))).function
    assert graded.__globals__ is plain.__globals__


def test_a_relative_file_path(reward_file, monkeypatch):
    monkeypatch.chdir(reward_file.parent)
    assert resolve("house_rewards.py:graded").high == 5.0


def test_a_dotted_path(reward_file, monkeypatch):
    monkeypatch.syspath_prepend(str(reward_file.parent))
    monkeypatch.delitem(sys.modules, "house_rewards", raising=False)
    assert resolve("house_rewards:graded").unit == 0.5


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A package with one module, and entry points as pip leaves them."""

    def make(package, content, **offers):
        site = tmp_path / f"site-{package}"
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{package}_rewards.py").write_text(content)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {package}_rewards:{target}\n" for name, target in offers.items())
        (info / "entry_points.txt").write_text(f"[recrl.rewards]\n{lines}")
        monkeypatch.syspath_prepend(str(site))

    return make


def test_an_entry_point_of_an_installed_package(install):
    install("acme", MODULE.format(name="acme_registered"), acme="graded")
    assert known()["acme"] == "entry point acme_rewards:graded of acme 1.0"
    assert resolve(RewardSpec(name="acme")).high == 5.0
    with pytest.raises(RewardSpecError, match="did you mean 'acme'"):
        resolve("acmee")


def test_a_name_that_two_packages_offer_is_refused_with_both(install):
    for package in ("left", "right"):
        install(package, MODULE.format(name=f"{package}_registered"), tasty="graded")
    assert "of left 1.0 and entry point right_rewards" in known()["tasty"]
    with pytest.raises(RewardSpecError, match=r"offered by left.* and by right.*use: 'left_rewards:graded'"):
        resolve("tasty")
    assert resolve(RewardSpec(name="tasty", use="right_rewards:graded")).high == 5.0


def test_a_name_of_ours_hides_that_of_a_package_and_says_so(install):
    install("shadow", MODULE.format(name="shadow_registered"), recall="graded")
    assert "which hides entry point shadow_rewards:graded of shadow 1.0" in known()["recall"]
    assert resolve("recall").high == 1.0


def test_a_package_that_cannot_be_used_leaves_the_others_in_the_list(install):
    install("broken", "import no_such_thing\n", spoiled="graded")
    install("bare", "def plain(completions):\n    return [0.0] * len(completions)\n", undeclared="plain")
    listed = " ".join(CliRunner().invoke(app, ["rewards", "list"], env={"COLUMNS": "300"}).stdout.split())
    assert (
        "cannot be used: reward 'spoiled': entry point broken_rewards:graded of broken 1.0 cannot" in listed
    )
    assert "cannot be used: reward 'undeclared' (undeclared) declares no range" in listed
    assert "validity" in listed


def test_an_unknown_name_offers_the_nearest_and_the_list():
    with pytest.raises(
        RewardSpecError, match=r"unknown reward 'recal'; did you mean 'recall'\? known: .*novelty"
    ):
        resolve("recal")


def test_an_unknown_function_offers_the_nearest(reward_file):
    with pytest.raises(RewardSpecError, match=r"has no 'grade'; did you mean 'graded'\?"):
        resolve(f"{reward_file}:grade")


def test_an_unknown_function_of_a_module_that_loads_late_offers_the_nearest():
    with pytest.raises(RewardSpecError, match=r"did you mean 'think_format_reward'\?"):
        resolve("trl.rewards:think_formt_reward")


def test_an_error_does_not_list_the_thousand_names_of_a_module():
    with pytest.raises(RewardSpecError, match=r"known: .* and \d{3,} more") as raised:
        resolve("transformers:reward")
    assert len(str(raised.value)) < 2000


def test_a_plain_function_needs_a_declared_range(reward_file):
    with pytest.raises(
        RewardSpecError, match=r"'plain' .* declares no range\. Decorate .* range: \[low, high\]"
    ):
        resolve(f"{reward_file}:plain")


def test_a_missing_file_names_the_folder_it_was_read_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RewardSpecError, match=f"no reward file .*absent.py .*{tmp_path.name}"):
        resolve("absent.py:fn")


def test_a_missing_module_says_how_to_make_it_importable():
    with pytest.raises(RewardSpecError, match="PYTHONPATH"):
        resolve("no_such_package.rewards:fn")


def test_an_import_that_fails_inside_a_users_file_keeps_its_own_error(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import not_installed_anywhere\n")
    for _ in range(2):  # a half-executed module must not be taken for a loaded one
        with pytest.raises(RewardSpecError, match=r"broken\.py cannot .*'not_installed_anywhere'") as raised:
            resolve(f"{path}:fn")
        assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_something_that_is_not_callable_is_refused(reward_file):
    with pytest.raises(RewardSpecError, match="is a list; it must be callable"):
        resolve(f"{reward_file}:loaded")


@pytest.mark.parametrize(
    "fields",
    [
        {"range": (1.0, 0.0)},
        {"range": (0.0, float("inf"))},
        {"range": 1.0},
        {"name": "a:b"},
        {"function": lambda: None, "name": ""},
        {"function": []},
        {"per": "batch"},
        {"unit": 0.0},
    ],
)
def test_an_unusable_declaration_is_refused(fields):
    with pytest.raises(RewardSpecError):
        Reward(**{"name": "r", "function": len, "range": (0.0, 1.0), **fields})


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("milk", "milk"),
        ([{"role": "assistant", "content": "milk"}], "milk"),
        ([{"content": "milk"}], "milk"),
        (
            [
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "mi"}, {"type": "text", "text": "lk"}],
                }
            ],
            "milk",
        ),
        ([{"role": "assistant", "content": None}, {"role": "tool", "content": "x"}], ""),
        (
            [
                {"role": "assistant", "content": "a"},
                {"role": "tool", "content": "b"},
                {"role": "assistant", "content": "c"},
            ],
            "c",
        ),
        ([], ""),
    ],
)
def test_completion_text_is_the_last_assistant_message(completion, text):
    assert completion_text(completion) == text
