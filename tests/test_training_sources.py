"""Training sets read from folders, lists, pairs, SfM pickles and unlabelled folders; what is wrong with them is said."""

from __future__ import annotations

import csv
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.datasets.synthetic.make import make_synthetic
from retrieval.errors import DatasetError, UsageError
from retrieval.training.data.sources import read_training_set
from retrieval.training.data.training_set import TrainingSet
from retrieval.training.held_out import hold_out


def touch(root: Path, *names: str) -> None:
    """Files of different sizes with these names; nothing here looks into a picture."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * (i + 1))


def named(data: TrainingSet, root: Path) -> dict[str, int]:
    return {os.path.relpath(path, root): int(c) for path, c in zip(data.paths, data.clusters, strict=True)}


def pairs_of(data: TrainingSet) -> list[tuple[str, str]]:
    return [(data.paths[a].name, data.paths[b].name) for a, b in data.pairs]


def refusal(path: Path, **options) -> str:
    with pytest.raises((DatasetError, UsageError)) as caught:
        read_training_set(path, **options)
    return str(caught.value)


# -- classes -----------------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.jpg", "b/2.png", "a/x/1.jpg", "a/2.jpg", "loose.jpg", "b/notes.txt", ".hidden/1.jpg")
    data = read_training_set(tmp_path)
    assert named(data, tmp_path) == {"a/2.jpg": 0, "a/x/1.jpg": 1, "b/1.jpg": 2, "b/2.png": 2, "loose.jpg": -1}
    assert data.cluster_names == ("a", "a/x", "b")
    assert (data.name, data.pairs.shape, data.two_views, data.notes) == (tmp_path.name, (0, 2), False, ())
    assert data.clusters.dtype == np.int64
    assert [path.name for path in read_training_set(tmp_path, kind="folders").paths] == [p.name for p in data.paths]


@pytest.mark.realdata
def test_the_lists_of_groceries(shared_data: Path) -> None:
    file = shared_data / "grocery" / "train.txt"
    data = read_training_set(file)
    rows = list(csv.reader(file.read_text().splitlines(), skipinitialspace=True))
    assert len(data) == len(rows) == 2640
    assert [data.cluster_names[c] for c in data.clusters] == [row[1] for row in rows]
    assert [path.relative_to(file.parent).as_posix() for path in data.paths] == [row[0] for row in rows]
    training, held = hold_out(data, 0.25, seed=0)
    assert len(np.unique(held.clusters)) == 20
    assert len(np.unique(training.clusters)) == 61
    assert not set(training.clusters) & set(held.clusters)
    assert len(training) + len(held) == 2640


def test_a_list_with_repetitions_and_another_folder(tmp_path: Path) -> None:
    touch(tmp_path / "pictures", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    file = tmp_path / "list.csv"
    file.write_text("path,label\na.jpg,cat\n./b.jpg,dog\nb.jpg,dog\n\nc.jpg,\nd.jpg,cat\n")
    data = read_training_set(file, images=tmp_path / "pictures")
    assert named(data, tmp_path / "pictures") == {"a.jpg": 0, "b.jpg": 1, "c.jpg": -1, "d.jpg": 0}
    assert data.notes == ("1 picture listed twice: counted once",)
    file.write_text("a.jpg,cat\na.jpg,dog\nb.jpg,cat\n")
    assert "'a.jpg' is in two classes, 'cat' and 'dog'" in refusal(file, images=tmp_path / "pictures")


def test_a_synthetic_set_is_read_by_its_list(tmp_path: Path) -> None:
    make_synthetic(tmp_path, objects=2, views=(1, 0, 0), distractors=0, train_objects=3, train_views=2, size=64)
    data = read_training_set(tmp_path)
    assert data.cluster_names == ("front_00", "front_01", "front_02")
    assert Counter(data.clusters.tolist()) == {0: 2, 1: 2, 2: 2}
    assert all("train" in path.parts for path in data.paths)


# -- pairs -------------------------------------------------------------------------------------------------------------

NAMES = [f"{letter}.jpg" for letter in "abcdefg"]


def test_pairs_without_clusters_connect_pictures(tmp_path: Path) -> None:
    touch(tmp_path, *NAMES)
    file = tmp_path / "pairs.csv"
    file.write_text("query,positive\na.jpg,b.jpg\nc.jpg, d.jpg\n\nb.jpg,e.jpg\nf.jpg,g.jpg\na.jpg,b.jpg\n")
    data = read_training_set(file)
    assert named(data, tmp_path) == {
        "a.jpg": 0,
        "b.jpg": 0,
        "c.jpg": 1,
        "d.jpg": 1,
        "e.jpg": 0,
        "f.jpg": 2,
        "g.jpg": 2,
    }
    assert pairs_of(data) == [("a.jpg", "b.jpg"), ("c.jpg", "d.jpg"), ("b.jpg", "e.jpg"), ("f.jpg", "g.jpg")]
    assert data.notes == ("1 pair listed twice: counted once",)
    assert (data.name, data.two_views) == ("pairs", False)


def test_pairs_with_clusters(tmp_path: Path) -> None:
    touch(tmp_path / "in", *NAMES)
    file = tmp_path / "pairs.txt"
    file.write_bytes("\ufeffin/a.jpg,in/b.jpg,tower\nin/c.jpg,in/d.jpg,tower\n'in/e.jpg',x\n".encode())
    assert "pairs.txt, line 3" in refusal(file)  # no cluster where others have one
    file.write_text('in/a.jpg,in/b.jpg,tower\n"in/c.jpg",in/d.jpg,tower\nin/e.jpg,in/f.jpg,bridge\n')
    data = read_training_set(file)
    assert [named(data, tmp_path)[f"in/{name}"] for name in NAMES[:6]] == [0, 0, 0, 0, 1, 1]
    assert data.cluster_names == ("tower", "bridge")


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)).filter(lambda p: p[0] != p[1]), min_size=1))
@settings(max_examples=40, deadline=None)
def test_connected_pictures_are_found_by_spreading(tmp_path_factory, pairs: list[tuple[int, int]]) -> None:
    root = tmp_path_factory.mktemp("pairs")
    touch(root, *(f"{i}.jpg" for i in range(16)))
    (root / "p.csv").write_text("".join(f"{a}.jpg,{b}.jpg\n" for a, b in pairs))
    together = {i: {i} for pair in pairs for i in pair}
    for _ in pairs:
        for a, b in pairs:
            together[a] = together[b] = together[a] | together[b]
        for group in list(together.values()):
            for i in group:
                together[i] = together[i] | group
    if len({frozenset(group) for group in together.values()}) < 2:
        assert "one class" in refusal(root / "p.csv")
        return
    data = read_training_set(root / "p.csv")
    number = {int(path.stem): int(c) for path, c in zip(data.paths, data.clusters, strict=True)}
    assert set(number) == set(together)
    for a in number:
        assert {b for b in number if number[b] == number[a]} == together[a]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.jpg,b.jpg", "c.jpg"], r"line 2: expected 'path,path' or 'path,path,cluster', found 'c.jpg'"),
        (["a.jpg,b.jpg", "", "c.jpg,"], r"line 3: expected 'path,path'"),
        (["a.jpg,b.jpg", "c.jpg,c.jpg"], r"line 2: 'c.jpg' is paired with itself"),
        (["a.jpg,b.jpg,1", "b.jpg,c.jpg,2"], r"line 2: 'b.jpg' is in cluster '2', before it was in '1'"),
        (["a.jpg,b.jpg", "b.jpg,c.jpg,2"], r"line 2: a cluster .* for all pairs or for none"),
        (["a.jpg,b.jpg", 'c.jpg,"d.jpg'], r"line 2: unexpected end of data"),
        (["query,positive"], r"no 'path,path' lines"),
        ([""], r"no 'path,path' lines"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    touch(tmp_path, *NAMES)
    (tmp_path / "p.csv").write_text("\n".join(lines))
    with pytest.raises(DatasetError, match=message):
        read_training_set(tmp_path / "p.csv", kind="pairs")


# -- the published lists -----------------------------------------------------------------------------------------------


def sfm(folder: Path, **changed) -> Path:
    """A set in the layout of retrieval-SfM-120k: pictures in folders named after the last digits of their names."""
    cids = [f"{i * 7919:026x}{i:06x}" for i in range(10)]
    for cid in cids:
        touch(folder, f"ims/{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}")
    train = {"cids": cids[:7], "cluster": [3, 3, 3, 9, 9, 4, 4], "qidxs": [0, 1, 3, 5], "pidxs": [1, 2, 4, 6]}
    val = {"cids": cids[6:], "cluster": np.array([1, 1, 2, 2]), "qidxs": np.array([0, 2]), "pidxs": np.array([1, 3])}
    folder.mkdir(exist_ok=True)
    file = folder / "retrieval-SfM-120k.pkl"
    file.write_bytes(pickle.dumps({"train": {**train, **changed}, "val": val}, protocol=2))
    return file


def test_the_published_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sfm(tmp_path / "data" / "retrieval-SfM-120k")
    data = read_training_set(file)
    assert data.clusters.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert data.pairs.tolist() == [[0, 1], [1, 2], [3, 4], [5, 6]]
    assert data.cluster_names == ("3", "9", "4")
    cid = f"{3 * 7919:026x}{3:06x}"
    assert data.paths[3] == file.parent / "ims" / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid
    validation = read_training_set(file, part="val")
    assert validation.clusters.tolist() == [0, 0, 1, 1]
    assert validation.pairs.tolist() == [[0, 1], [2, 3]]
    monkeypatch.chdir(tmp_path)
    for same in (file.parent, "retrieval-SfM-120k"):  # by its folder, and by its name
        assert read_training_set(same).pairs.tolist() == data.pairs.tolist()
    os.rename(file.parent / "ims", tmp_path / "elsewhere")
    assert "7 of 7 pictures are missing" in refusal(file)
    assert read_training_set(file, images=tmp_path / "elsewhere").clusters.tolist() == data.clusters.tolist()


def test_a_list_without_clusters_takes_what_its_pairs_connect(tmp_path: Path) -> None:
    file = sfm(tmp_path)
    form = pickle.loads(file.read_bytes())["train"]
    del form["cluster"]
    file.write_bytes(pickle.dumps(form))
    assert read_training_set(file).clusters.tolist() == [0, 0, 0, 1, 1, 2, 2]
    file.write_bytes(pickle.dumps({**form, "qidxs": [1, 5], "pidxs": [2, 4]}))  # the others are in no pair
    assert read_training_set(file).clusters.tolist() == [-1, 0, 0, -1, 1, 1, -1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cids": ["../../etc/passwd"] * 7}, "expected names of pictures under 'cids'"),
        ({"cids": []}, "expected names of pictures"),
        ({"qidxs": [0]}, "pairs of numbers from 0 to 6"),
        ({"pidxs": [1, 2, 4, 7]}, "pairs of numbers from 0 to 6"),
        ({"pidxs": [1, 2, 4, -1]}, "pairs of numbers from 0 to 6"),
        ({"cluster": [1, 2]}, "expected 7 numbers under 'cluster'"),
        ({"cluster": [3, 3, 3, 9, 8, 4, 4]}, "1 pairs join two clusters"),
        ({"qidxs": [1, 1, 3, 5]}, "paired with itself"),
    ],
)
def test_a_broken_published_list_is_refused(tmp_path: Path, changed: dict, message: str) -> None:
    assert message in refusal(sfm(tmp_path, **changed))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    file = sfm(tmp_path)
    file.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    assert "refused, not run" in refusal(file)
    file.write_bytes(pickle.dumps({"val": {}}))
    assert "has no part 'train'" in refusal(file)
    assert "retrieve datasets download retrieval-SfM-120k" in refusal(Path("retrieval-SfM-120k"))


# -- unlabelled --------------------------------------------------------------------------------------------------------


def test_unlabelled_pictures_are_their_own_match(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.jpg", "c.txt")
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    (tmp_path / "alike.jpg").write_bytes(b"yy")  # as long as a.jpg
    data = read_training_set(tmp_path)
    assert [path.name for path in data.paths] == ["a.jpg", "alike.jpg", "b.jpg"]
    assert data.two_views
    assert data.clusters.tolist() == [0, 1, 2]
    assert data.notes[0] == "1 picture is a copy of another: counted once"
    (tmp_path / "sub").mkdir()
    touch(tmp_path / "sub", "d.jpg", "e.jpg", "f.jpg", "g.jpg")
    assert not read_training_set(tmp_path).two_views  # sub-folders are classes unless it is said
    assert read_training_set(tmp_path, kind="unlabelled").two_views


# -- what is wrong -----------------------------------------------------------------------------------------------------


def test_missing_pictures_are_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, *NAMES)
    file = tmp_path / "list.csv"
    gone = [f"gone{i}.jpg" for i in range(5)]
    file.write_text("".join(f"{name},{i % 2}\n" for i, name in enumerate([*NAMES, *gone])))
    said = refusal(file)
    assert "5 of 12 pictures are missing" in said
    assert all(name in said for name in gone[:3])
    assert "gone3" not in said
    assert "and 2 more" in said
    data = read_training_set(file, skip_missing=True)
    assert [path.name for path in data.paths] == NAMES
    assert data.clusters.tolist() == [i % 2 for i in range(7)]
    assert data.notes[0].startswith("5 of 12 pictures are missing")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("a.jpg,gone.jpg\nb.jpg,c.jpg\nd.jpg,e.jpg\n")
    data = read_training_set(pairs, skip_missing=True)
    assert pairs_of(data) == [("b.jpg", "c.jpg"), ("d.jpg", "e.jpg")]
    pairs.write_text("x.jpg,y.jpg\nv.jpg,w.jpg\n")
    assert "4 of 4 pictures are missing" in refusal(pairs, skip_missing=True)


@pytest.mark.parametrize("kind", ["folders", "unlabelled"])
def test_links_to_nothing_in_a_folder_are_left_out_and_told(kind: str, tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "one/b.jpg", "two/c.jpg", "two/d.jpg")
    for name in ("one/dead.jpg", "two/gone.jpg"):
        (tmp_path / name).symlink_to(tmp_path / "nothing.jpg")
    data = read_training_set(tmp_path, kind=kind)
    assert [path.name for path in data.paths] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    (told,) = [note for note in data.notes if "left out" in note]
    assert told.startswith("2 ")
    assert str(tmp_path / "one" / "dead.jpg") in told


def test_a_name_that_no_file_can_have_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, *NAMES)
    (tmp_path / "list.csv").write_text("a.jpg,1\nb.jpg,2\n" + "x" * 5000 + ",1\nc.jpg/d.jpg,1\n")
    assert "2 of 4 pictures are missing" in refusal(tmp_path / "list.csv")


def test_data_that_cannot_be_trained_on(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "one/b.jpg")
    assert "all 2 pictures are one class" in refusal(tmp_path)
    touch(tmp_path, "one/a.jpg", "one/b.jpg", "loose.jpg")  # a picture of no class is a negative
    assert len(read_training_set(tmp_path)) == 3
    touch(tmp_path / "single", "a/1.jpg", "b/1.jpg", "c/1.jpg")
    assert "no two pictures match" in refusal(tmp_path / "single")
    (tmp_path / "empty").mkdir()
    assert "no pictures in this folder" in refusal(tmp_path / "empty")
    (tmp_path / "empty.csv").write_text("")
    assert "no 'path,label' lines" in refusal(tmp_path / "empty.csv")
    touch(tmp_path / "lonely", "1.jpg")
    assert "nothing to tell apart" in refusal(tmp_path / "lonely")


def test_wrong_requests(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "list.json")
    assert "no such file or folder" in refusal(tmp_path / "nowhere")
    assert "no kind of training data is called 'zip'" in refusal(tmp_path, kind="zip")
    assert "not a known kind of training data" in refusal(tmp_path / "list.json")
    assert "is a folder, not a file of pairs" in refusal(tmp_path, kind="pairs")
    assert "is not a folder" in refusal(tmp_path / "list.json", kind="unlabelled")
    assert "has no part 'val'" in refusal(tmp_path, part="val")
    assert "holds its pictures itself" in refusal(tmp_path, images=tmp_path)
    assert "0 lists retrieval-SfM" in refusal(tmp_path, kind="sfm")


# -- parts of a set ----------------------------------------------------------------------------------------------------


def made(clusters: list[int], pairs: list[tuple[int, int]], two_views: bool = False) -> TrainingSet:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    paths = tuple(Path(f"{i}") for i in range(len(clusters)))
    return TrainingSet("made", paths, np.array(clusters, np.int64), table, two_views)


@given(st.data(), st.integers(1, 12))
def test_a_subset_keeps_what_is_whole(data, count: int) -> None:
    place = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(place, place)))
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    clusters = data.draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count))
    part = made(clusters, pairs).subset(keep)
    kept = [i for i in range(count) if keep[i]]
    assert [int(path.name) for path in part.paths] == kept
    assert part.clusters.tolist() == [clusters[i] for i in kept]
    named_pairs = [(int(part.paths[a].name), int(part.paths[b].name)) for a, b in part.pairs]
    assert named_pairs == [(a, b) for a, b in pairs if keep[a] and keep[b]]


def test_a_subset_is_chosen_by_truth_values() -> None:
    for wrong in (np.array([1, 0, 1]), np.array([True, False])):
        with pytest.raises(UsageError, match="expected 3 values true or false"):
            made([0, 0, 1], []).subset(wrong)


@given(st.lists(st.integers(-1, 8), min_size=2, max_size=40), st.floats(0.05, 0.95), st.integers(0, 5))
def test_whole_clusters_are_held_out(clusters: list[int], share: float, seed: int) -> None:
    sizes = Counter(c for c in clusters if c >= 0)
    askable = [c for c, n in sizes.items() if n > 1]
    data = made(clusters, [])
    count = max(2, round(share * len(askable)))
    if len(askable) <= count or len(sizes) - count + clusters.count(-1) < 2:
        with pytest.raises(UsageError, match="too few to hold out"):
            hold_out(data, share, seed)
        return
    training, held = hold_out(data, share, seed)
    assert len(set(held.clusters)) == count
    assert set(held.clusters) <= set(askable)
    assert not set(held.clusters) & set(training.clusters)
    assert len({c for c in training.clusters if c >= 0}) + (training.clusters < 0).sum() >= 2
    assert sorted(int(p.name) for p in (*training.paths, *held.paths)) == list(range(len(clusters)))
    again = hold_out(data, share, seed)[1]
    assert again.paths == held.paths


def test_different_seeds_hold_out_different_clusters_and_pairs_go_along() -> None:
    data = made([i // 2 for i in range(40)], [(i, i + 1) for i in range(0, 40, 2)])
    held = [hold_out(data, 0.25, seed)[1] for seed in range(6)]
    assert len({part.paths for part in held}) > 3
    for part in held:
        assert len(part.pairs) == 5
        assert (part.clusters[part.pairs[:, 0]] == part.clusters[part.pairs[:, 1]]).all()
    views = made(list(range(10)), [], two_views=True)
    training, part = hold_out(views, 0.3, 0)
    assert (len(training), len(part), part.two_views) == (7, 3, True)
    for share in (0, 1, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            hold_out(data, share, 0)
