"""Pairs on disk: tables, mask scales, the check before training, HQSeg-44K's folders, lists."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from unseg.data.header_check import check_dataset
from unseg.data.hqseg import PARTS, TRAINING_PARTS, open_hqseg, open_list, open_part
from unseg.data.pairs import DataError, Joined, PairDataset, StringTable, Subset
from unseg.utils.errors import UserError


def write_pair(folder: Path, stem: str, *, mask: np.ndarray | None = None, size=(20, 30)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{stem}.jpg"), np.full((*size, 3), 90, np.uint8))
    if mask is None:
        mask = np.zeros(size, np.uint8)
        mask[5:9, 5:9] = 255
    cv2.imwrite(str(folder / f"{stem}.png"), mask)


def pairs(folder: Path, *stems: str) -> PairDataset:
    return PairDataset("set", folder, [(f"{stem}.jpg", f"{stem}.png") for stem in stems])


def test_a_string_table_returns_what_it_was_given() -> None:
    texts = ["", "a/b.jpg", "ü/ß.png", "", "日本.png"]
    table = StringTable(texts)
    assert [table[i] for i in range(len(table))] == texts
    assert len(StringTable([])) == 0


def test_a_large_table_stays_compact() -> None:
    table = StringTable(f"cascade_psp/fss_all/{i:07d}.jpg" for i in range(20_000))
    size = sum(sys.getsizeof(value) + value.nbytes for value in vars(table).values())
    assert size / 20_000 < 2 * 45
    assert table[19_999] == "cascade_psp/fss_all/0019999.jpg"


@pytest.mark.parametrize("scale", [1, 255])
def test_the_mask_scale_is_decided_by_looking_and_logged(
    scale: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for stem in ("a", "b"):
        mask = np.zeros((20, 30), np.uint8)
        mask[2:4, 2:4] = scale
        write_pair(tmp_path, stem, mask=mask)
    caplog.set_level(logging.INFO, "unseg")
    sample = pairs(tmp_path, "a", "b")[0]
    assert sample.mask.max() == 255
    assert (sample.mask > 127).sum() == 4
    assert f"masks in {{0, {scale}}}" in caplog.text


def test_class_indices_are_no_object_masks(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", mask=np.full((20, 30), 7, np.uint8))
    with pytest.raises(DataError, match="largest value in 1 masks is 7"):
        check_dataset(pairs(tmp_path, "a"))


def test_a_mask_of_another_scale_than_its_data_set_is_an_error(tmp_path: Path) -> None:
    stems = [f"{i:03d}" for i in range(70)]
    for stem in stems:
        write_pair(tmp_path, stem, mask=np.eye(20, 30, dtype=np.uint8))
    write_pair(tmp_path, stems[1])
    dataset = pairs(tmp_path, *stems)
    assert dataset.mask_scale == 1  # The odd one is not among the masks that are looked at.
    with pytest.raises(UserError, match="holds the value 255, but the masks of this set"):
        dataset[1]


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    for stem in "abcdef":
        write_pair(tmp_path, stem)
    (tmp_path / "a.jpg").unlink()
    write_pair(tmp_path, "b", mask=np.zeros((30, 20), np.uint8))
    (tmp_path / "c.png").write_bytes(b"not a picture")
    (tmp_path / "d.jpg").write_bytes(b"")
    outside = tmp_path.parent / "outside.jpg"
    cv2.imwrite(str(outside), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "e.jpg").unlink()
    (tmp_path / "e.jpg").symlink_to(outside)
    with pytest.raises(DataError) as caught:
        check_dataset(pairs(tmp_path, *"abcdef"))
    problems = caught.value.problems
    assert len(problems) == 5
    for problem, text in zip(
        problems,
        (
            "a.jpg: no such file",
            "b.png: mask is 20 x 30 but its image b.jpg is 30 x 20",
            "c.png: not a picture",
            "d.jpg: ",
            "symbolic link",
        ),
        strict=True,
    ):
        assert text in problem


def test_faulty_pairs_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    for stem in "abc":
        write_pair(tmp_path, stem)
    (tmp_path / "b.png").unlink()
    reports: list[str] = []
    checked = check_dataset(pairs(tmp_path, *"abc"), skip_faulty=True, report=reports.append)
    assert [checked[i].name for i in range(len(checked))] == ["a.jpg", "c.jpg"]
    assert len(reports) == 1
    assert "b.png" in reports[0]


def test_many_faults_are_printed_in_part_and_counted_in_full(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        check_dataset(pairs(tmp_path, *map(str, range(120))))
    assert len(caught.value.problems) == 120
    assert "and 70 more (120 in all)" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 51


def test_joined_sets_keep_order_and_tell_names_apart(tmp_path: Path) -> None:
    for stem in "ab":
        write_pair(tmp_path, stem)
    one = PairDataset("one", tmp_path, [("a.jpg", "a.png")])
    two = PairDataset("two", tmp_path, [("a.jpg", "a.png"), ("b.jpg", "b.png")])
    joined = Joined([one, PairDataset("none", tmp_path, []), two])
    names = ["one/a.jpg", "two/a.jpg", "two/b.jpg"]
    assert [joined[i].name for i in range(3)] == names
    assert [joined.sample_name(i) for i in range(3)] == names
    assert Subset(joined, [2, 0]).sample_name(0) == "two/b.jpg"
    with pytest.raises(IndexError):
        joined[3]


def test_a_list_is_read_from_its_own_folder_or_a_given_root(tmp_path: Path) -> None:
    write_pair(tmp_path / "x", "a")
    (tmp_path / "list.txt").write_text("# pairs\nx/a.jpg\tx/a.png\n\n")
    assert open_list(tmp_path / "list.txt")[0].name == "x/a.jpg"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "list.txt").write_text("x/a.jpg\tx/a.png")
    assert len(check_dataset(open_list(tmp_path / "sub" / "list.txt", tmp_path))) == 1


def test_malformed_lines_of_a_list_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a.jpg\ta.png\na.jpg a.png\n\nb.jpg\tb.png\tc.png\nd.jpg\t\n")
    with pytest.raises(DataError) as caught:
        open_list(path)
    assert [problem.split(":")[1] for problem in caught.value.problems] == ["2", "4", "5"]


@pytest.mark.parametrize("line", ["../a.jpg\ta.png", "/a.jpg\ta.png", "a.jpg\tx/../../a.png"])
def test_a_list_cannot_lead_out_of_its_root(line: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(line)
    with pytest.raises(DataError, match="must be a path below"):
        check_dataset(open_list(tmp_path / "list.txt"))


def test_a_missing_or_empty_list_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such list file"):
        open_list(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no pairs"):
        open_list(tmp_path / "list.txt")


def test_a_list_can_be_taken_in_part_by_folder(tmp_path: Path) -> None:
    lines = ("a/x.png\ta/m.png", "ab/y.png\tab/m.png", "b/c/z.png\tb/m.png")
    (tmp_path / "list.txt").write_text("\n".join(lines))

    def names(*folders: str) -> list[str]:
        part = open_list(tmp_path / "list.txt", folders=folders)
        return [part.sample_name(i).split("/")[0] for i in range(len(part))]

    assert names() == ["a", "ab", "b"]
    assert names("a") == ["a"]
    assert names("a/", "b/c") == ["a", "b"]
    with pytest.raises(DataError, match="holds no pairs below c"):
        names("c")


def test_hqseg_has_its_published_size() -> None:
    assert sum(part.num_pairs or 0 for part in TRAINING_PARTS.values()) == 44_320
    assert len(TRAINING_PARTS) == 7


@pytest.mark.parametrize("name", sorted(PARTS))
def test_each_part_is_found_in_its_published_folders(name: str, tmp_path: Path) -> None:
    part = PARTS[name]
    for stem in ("b", "a"):
        write_pair(tmp_path / "raw", stem)
        for folder, suffix in ((part.images, ".jpg"), (part.masks, ".png")):
            target = tmp_path / folder / f"{stem}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "raw" / f"{stem}{suffix}").rename(target)
    dataset = check_dataset(open_part(name, tmp_path))
    assert len(dataset) == 2
    assert Path(dataset[0].name).name == "a.jpg"
    assert (dataset[0].mask > 127).sum() == 16


def test_missing_parts_are_all_named_with_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_hqseg(tmp_path)
    text = "\n".join(caught.value.problems)
    assert all(name in text for name in TRAINING_PARTS)
    assert "docs/DATASETS.md" in text


def test_files_without_a_partner_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "cascade_psp/ecssd"
    for stem in "abc":
        write_pair(folder, stem)
    (folder / "a.jpg").unlink()
    (folder / "c.png").unlink()
    with pytest.raises(DataError) as caught:
        open_part("ECSSD", tmp_path)
    assert "c.jpg has no mask" in caught.value.problems[0]
    assert "a.png has no image" in caught.value.problems[1]
