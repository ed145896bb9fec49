from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import call

from lightly_prg.claims.recipe import ClaimRecipe, is_claim, load_claim, parse_claim, shipped_claims
from lightly_prg.claims.result import shown_command
from lightly_prg.errors import UserError

MakeClaim = Callable[..., ClaimRecipe]


def test_shipped__are_the_six_and_share_one_pretraining() -> None:
    claims = [load_claim(name) for name in shipped_claims()]
    assert [claim.id for claim in claims] == ["c02", "c03", "c04b", "c06", "c08", "c14"]
    assert len({claim.study.name for claim in claims}) == 6
    shared = {str((claim.data, claim.overrides, claim.seeds)) for claim in claims}
    assert len(shared) == 1
    recipe = claims[0].recipe_of("cifar10", 2)
    assert (recipe.name, recipe.seed, recipe.data.image_size, recipe.data.root) == ("cifar10-seed2", 2, 16, "data")
    assert all("2412.01787" in claim.claim and claim.controls for claim in claims)


def test_recipe__comes_back_from_its_yaml() -> None:
    for name in shipped_claims():
        claim = load_claim(name, ["seeds=[5]", "data.cifar10=null", "data.fashion_mnist.root='a b'"])
        assert parse_claim(claim.to_yaml()) == claim
        assert (claim.seeds, list(claim.data)) == ((5,), ["fashion_mnist"])
        assert claim.recipe_of("fashion_mnist", 5).data.root == "a b"


def test_set__overrides_come_last() -> None:
    claim = load_claim("claims/c06", ["data.cifar10.overrides=[data.image_size=8]"])
    assert [claim.recipe_of(label, 0).data.image_size for label in claim.data] == [16, 8]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["marigin=1"], r"unknown key 'marigin'.*did you mean 'margin'"),
        (["data.cifar10.rooot=x"], r"unknown key 'data\.cifar10\.rooot'.*did you mean 'data\.cifar10\.root'"),
        (["study.name=solver"], r"study\.name is 'solver'.*did you mean 'solvers'"),
        (["study.labls=3"], r"unknown key 'study\.labls'.*did you mean 'study\.labels'"),
        (["study.judged=[{solver: euler}]"], "euler needs steps"),
        (["study.judged=[{solver: dopri5, steps: 2}]"], "dopri5 chooses its own steps"),
        (["study.judged=[{solver: dopri5}, {solver: dopri5, decides: true}]"], "may stand there once"),
        (["seeds=[1, 1]"], "each may stand there once"),
        (["data={cifar10: null}"], "data"),
    ],
)
def test_mistakes__are_told_in_a_sentence(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_claim("claims/c06", overrides)


def test_mistakes_of_a_study__are_told_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"epochs are \[3\]; one is needed for each of labels \[100, 10\]"):
        load_claim("claims/c02", ["study.epochs=[3]"])
    with pytest.raises(UserError, match=r"scratch_epochs are \[3, 4, 5\]; one is needed"):
        load_claim("claims/c02", ["study.scratch_epochs=[3, 4, 5]"])
    for name, epochs in (("c02", "[16, 9]"), ("c08", "7")):
        with pytest.raises(UserError, match=r"scratch_epochs are [97] beside epochs of (25|8)"):
            load_claim(f"claims/{name}", [f"study.scratch_epochs={epochs}"])
    with pytest.raises(UserError, match="is about features"):
        load_claim("claims/c02", ["study.features=[block]"])
    claim = load_claim("claims/c06", ["data.cifar10.recipe=cifar10_mae_cpu", "overrides=[]"])
    with pytest.raises(UserError, match=r"data\.cifar10.*cifar10_mae_cpu trains mae; claims are about prg"):
        claim.recipe_of("cifar10", 0)


def test_title__is_that_of_the_set_or_its_own() -> None:
    folder = "[data.name=folder, data.root=/home/me/cifar10-jpeg]"
    claim = load_claim("claims/c06", [f"data.cifar10.overrides={folder}"])
    assert claim.titles() == {"fashion_mnist": "Fashion-MNIST", "cifar10": "cifar10-jpeg"}
    named = load_claim("claims/c06", ["data.cifar10.title='CIFAR-10, lossy JPEG copy'"])
    assert named.titles()["cifar10"] == "CIFAR-10, lossy JPEG copy"
    with pytest.raises(UserError, match="Two sets are called 'CIFAR-10'"):
        load_claim("claims/c06", ["data.fashion_mnist.title=CIFAR-10"]).titles()


def test_margins__are_set_before_anything_is_measured() -> None:
    claims = {name.partition("/")[2]: load_claim(name) for name in shipped_claims()}
    assert {name: claim.margin for name, claim in claims.items()} == {
        "c02": 5, "c03": 0.5, "c04b": 1, "c06": 1, "c08": 1, "c14": 1,
    }  # fmt: skip
    own = ("rise_margin", "share_margin", "doublings_margin")
    found = {key: getattr(claim.study, key) for claim in claims.values() for key in own if hasattr(claim.study, key)}
    assert found == {"rise_margin": 1, "share_margin": 2, "doublings_margin": 1}


def test_claims__are_known_from_comparisons(tmp_path: Path, make_claim: MakeClaim) -> None:
    assert is_claim("claims/whatever")
    assert not is_claim("compare_quick")
    file = tmp_path / "mine.yaml"
    file.write_text(make_claim("solvers").to_yaml(), encoding="utf-8")
    assert is_claim(str(file))
    assert load_claim(file) == make_claim("solvers")
    file.write_text("name: x\nmethods: []\n", encoding="utf-8")
    assert not is_claim(str(file))


def test_command__leaves_the_folders_of_a_machine_out() -> None:
    given = ["data.cifar10.root=/home/me", "existing=/home/me/runs", "seeds=[0, 1]", "margin=2"]
    assert shown_command("claims/c06", given) == (
        "lightly-prg compare claims/c06 data.cifar10.root=DATA 'seeds=[0, 1]' margin=2"
    )
    given = ["data.cifar10.overrides=[data.name=folder, data.root=/home/me/images]", "overrides=[data.root=/home/me]"]
    assert shown_command("claims/c06", given) == (
        "lightly-prg compare claims/c06 'data.cifar10.overrides=[data.name=folder, data.root=DATA]' "
        "'overrides=[data.root=DATA]'"
    )


def test_command__is_what_a_shell_reads_back() -> None:
    given = ["data.cifar10.title='CIFAR-10, lossy JPEG copy'", "seeds=[0]", "data.cifar10.title=\"$5, 'so'\""]
    shown = shown_command("claims/c06", given)
    assert "\"data.cifar10.title='CIFAR-10, lossy JPEG copy'\"" in shown
    assert shlex.split(shown) == ["lightly-prg", "compare", "claims/c06", *given]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("claims/c6",), "did you mean 'claims/c06'"),
        (("claims/c06", "studdy.name=x"), "unknown key 'studdy'"),
        (("claims/c06", "study.name=magic"), "study.name is 'magic'"),
        (("claims/c06", "data.fashion_mnist.root=nowhere"), "Say where they lie with data.fashion_mnist.root=FOLDER"),
        (("claims/c06", "--split", "test"), "--split goes with a comparison"),
        (("claims/c06", "claims/c08"), "One claim is tested at a time"),
        (("claims/c06=1",), "Say what to compare"),
        (("claims/c06", "--dry-run", "data.cifar=null"), "there is no set data.cifar to leave out; did you mean"),
        (("claims/c06", f"overrides=[{', '.join(['train.epochs=1'] * 40)}, x=1]"), "unknown key 'x'"),
        (("claims/c06", "--dry-run", "study.judged=[{solver: heun, steps: 4}]"), "there is no solver 'heun'"),
        (
            ("claims/c03", "overrides=[]", "data.cifar10=null"),
            "ranks snapshots after the first step, of which there are 0",
        ),
        (("claims/c06", "existing=nowhere"), "existing is 'nowhere'"),
    ],
)
def test_bad_input__ends_in_one_sentence_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, "compare", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_dry_run__tells_what_is_missing_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(monkeypatch, capsys, "compare", "claims/c14", "seeds=[3]", "--dry-run", "--out", "there/c14")
    assert code == 0
    assert "seeds: [3]" in out
    assert "there/runs/cifar10-seed3  missing" in out
    assert list(tmp_path.iterdir()) == []


def test_claim_that_was_begun__is_continued_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine/c14/claim.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(load_claim("claims/c14", ["seeds=[3]"]).to_yaml(), encoding="utf-8")
    _, out, _ = call(monkeypatch, capsys, "compare", str(file), "--dry-run")
    assert "comparisons/claims/runs/cifar10-seed3  missing" in out, "a recipe of one's own"
    (file.parent / "cells").mkdir()
    for source in ("mine/c14", "mine/c14/claim.yaml"):
        _, out, _ = call(monkeypatch, capsys, "compare", source, "--dry-run")
        assert "mine/runs/cifar10-seed3  missing" in out
