import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import samples
from tests.commands import NAMES, SIZE, labelled_folder
from tests.toy.model import Seen
from vlseg import labels
from vlseg.data.images import read_label
from vlseg.evaluation.crf import CRF, refine


def report(out):
    return json.loads((out / "metrics.json").read_text())


def test_scores_are_those_of_every_picture(commands, model, loaded, folder, tmp_path, capsys):
    out = tmp_path / "new" / "scores"
    assert commands.call("evaluate", "--checkpoint", model, f"--data={folder}", f"--out={out}") == 0
    output, errors = capsys.readouterr()
    assert "mIoU" in output and f"wrote {out / 'metrics.json'} and" in output and errors == ""
    assert {path.name for path in out.iterdir()} == {"metrics.json", "metrics.csv"}
    labels = np.stack([read_label(folder / f"labels/{number}.png") for number in range(4)])
    predicted = np.stack([one.label_map for one in loaded.segment(sorted((folder / "images").iterdir()))])
    predicted[labels == 255] = 255
    pairs = [(predicted == index, labels == index) for index in range(len(NAMES))]
    scores = [(a & b).sum() / (a | b).sum() for a, b in pairs]
    found = report(out)
    assert "replaced" not in found and found["images"] == 4 and found["labels"] == list(NAMES)
    assert found["inference"] == dataclasses.asdict(loaded.inference)
    assert found["aAcc"] == pytest.approx((predicted == labels)[labels != 255].mean())
    assert found["IoU"] == pytest.approx(dict(zip(NAMES, scores, strict=True)))
    assert found["mIoU"] == pytest.approx(np.mean(scores)) and found["mIoU"] > 0.9


def test_other_words(commands, model, folder, tmp_path):
    words = "green grass,bricks,small trees,cars"
    flags = (f"--checkpoint={model}", f"--data={folder}", f"--labels={words}", f"--out={tmp_path}")
    output = commands.output("evaluate", *flags)
    pairs = dict(zip(NAMES, words.split(","), strict=True))
    assert f"asked for: {', '.join(f'{name} as {word}' for name, word in pairs.items())}\n" in output
    assert report(tmp_path)["replaced"] == pairs
    assert list(report(tmp_path)["IoU"]) == words.split(",")


def by_hand(predicted, words, scored, folder):
    """IoU of scored classes, where the label maps [4, H, W] are indices of words."""
    labels = np.stack([read_label(folder / f"labels/{number}.png") for number in range(4)])
    counted = np.isin(labels, [NAMES.index(name) for name in scored])
    pairs = [((predicted == words.index(name)) & counted, labels == NAMES.index(name)) for name in scored]
    return {name: (a & b).sum() / (a | b).sum() for name, (a, b) in zip(scored, pairs, strict=True)}


@pytest.mark.parametrize("scored", [NAMES, ("tree", "grass")])
def test_more_candidates_than_are_scored(commands, model, loaded, folder, tmp_path, scored):
    """Candidates in an order of their own, of which some are answers that are never right."""
    others = [f"other {number}" for number in range(60)]
    words = [*others[:9], "tree", "grass", *others[9:], "car", "house"]
    flags = (f"--checkpoint={model}", f"--data={folder}", f"--labels={','.join(words)}", f"--out={tmp_path}")
    chosen = [] if scored == NAMES else [f"--score_labels={','.join(scored)}"]
    output = commands.output("evaluate", *flags, *chosen, "--brightness=0.4")
    assert "asked for" not in output
    assert [line.split()[0] for line in output.splitlines()[2 : 2 + len(scored)]] == [*scored]
    images = [folder / f"images/{number}.jpg" for number in range(4)]
    predicted = np.stack([loaded.segment(image, words, settings=Seen(brightness=0.4)).label_map for image in images])
    assert all(0 < np.isin(predicted, [words.index(name) for name in one]).mean() < 1 for one in (NAMES, others))
    found, expected = report(tmp_path), by_hand(predicted, words, scored, folder)
    assert found["labels"] == words and list(found["IoU"]) == [*scored]
    assert found["IoU"] == pytest.approx(expected) and found["mIoU"] == pytest.approx(np.mean([*expected.values()]))


def test_the_unseen_classes_among_all_of_coco_stuff(commands, model, tmp_path):
    """The 15 classes as a data set and as a part of the 171 are one protocol, in the order of either."""
    samples.coco_unseen(tmp_path / "unseen")
    samples.coco_stuff(tmp_path / "stuff")
    given = {"unseen": "--labels=coco_stuff_171", "stuff": "--score_labels=coco_unseen_15"}
    for name, flag in given.items():
        data = f"--data=coco_{name}:{tmp_path / name}"
        commands.output("evaluate", f"--checkpoint={model}", data, flag, f"--out={tmp_path / 'out' / name}")
    unseen, stuff = (json.loads((tmp_path / "out" / name / "metrics.json").read_text()) for name in given)
    assert unseen == stuff and len(stuff["labels"]) == 171 and tuple(stuff["IoU"]) == labels.load("coco_unseen_15")


def table_of(path):
    header, *rows = list(csv.reader(path.read_text().splitlines()))
    return header, {name: rest for name, *rest in rows}


def test_a_report(commands, model, loaded, folder, tmp_path):
    """Of words with distractors, in the data set's order; a damaged picture is not in it."""
    data, out = shutil.copytree(folder, tmp_path / "data"), tmp_path / "out"
    (data / "images/3.jpg").write_bytes((data / "images/3.jpg").read_bytes()[:-900])
    (out / "report/worst").mkdir(parents=True)
    (out / "report/worst/10.png").write_bytes(b"of an earlier run")
    (out / "report/confusion.csv").touch()
    words = [*(f"other {number}" for number in range(60)), "car", "house", "grass", "tree"]
    scored = ("grass", "car", "tree")
    flags = [f"--checkpoint={model}", f"--data={data}", f"--out={out}", "--brightness=0.4", "--skip_damaged"]
    flags += [f"--labels={','.join(words)}", f"--score_labels={','.join(scored)}", "--report"]
    assert commands.call("evaluate", *flags) == 3
    images = [folder / f"images/{number}.jpg" for number in range(3)]
    predicted = [loaded.segment(image, words, settings=Seen(brightness=0.4)).label_map for image in images]
    matrix, pictures = np.zeros((3, 4), int), {}
    for number, found in enumerate(predicted):
        label = read_label(folder / f"labels/{number}.png")
        one = np.zeros((3, 4), int)
        for place in np.ndindex(SIZE):
            if label[place] < len(NAMES) and NAMES[label[place]] in scored:
                answer = words[found[place]]
                one[scored.index(NAMES[label[place]]), scored.index(answer) if answer in scored else 3] += 1
        either = one.sum(axis=1) + one.sum(axis=0)[:3] - one.diagonal()
        iou = [right / both for right, both in zip(one.diagonal(), either, strict=True) if both]
        pictures[str(number)] = [np.mean(iou), one.trace() / one.sum(), one.sum()]
        matrix += one
    header, rows = table_of(out / "report/confusion.csv")
    assert header == ["label", *scored, "other words"] and list(rows) == [*scored] and matrix[:, 3].any()
    assert [list(map(int, row)) for row in rows.values()] == matrix.tolist()
    header, rows = table_of(out / "report/pictures.csv")
    assert header == ["picture", "mIoU", "aAcc", "pixels"]
    assert list(rows) == sorted(pictures, key=lambda name: pictures[name])
    for name, row in rows.items():
        assert list(map(float, row)) == pytest.approx(pictures[name])
    assert sorted(path.name for path in (out / "report/worst").iterdir()) == ["01.png", "02.png", "03.png"]
    for path in (out / "report").rglob("*.png"):
        assert min(Image.open(path).size) > 100
    assert report(out)["damaged"]


def test_a_report_without_other_words(commands, model, folder, tmp_path):
    flags = (f"--checkpoint={model}", f"--data={folder}", f"--out={tmp_path}", "--report")
    assert f"wrote {tmp_path / 'report'}\n" in commands.output("evaluate", *flags)
    header, rows = table_of(tmp_path / "report/confusion.csv")
    assert header == ["label", *NAMES]
    found = report(tmp_path)
    for place, (name, row) in enumerate(rows.items()):
        assert int(row[place]) / sum(map(int, row)) == pytest.approx(found["Acc"][name])


def test_settings_of_inference(commands, model, loaded, folder, tmp_path):
    flags = (f"--checkpoint={model}", f"--data={folder}", f"--out={tmp_path}")
    commands.output("evaluate", *flags, "--brightness=0.5", "--crf_iterations=3", "--crf_colour_deviation=20")
    settings = CRF(iterations=3, colour_deviation=20)
    dimmed = dataclasses.replace(loaded, inference=dataclasses.replace(loaded.inference, brightness=0.5))
    refined = []
    for number in range(4):
        found = dimmed.segment(folder / f"images/{number}.jpg")
        refined.append(refine(found.probabilities, found.image, settings).argmax(axis=-1))
    found = report(tmp_path)
    assert found["inference"] == {"brightness": 0.5, "crf": dataclasses.asdict(settings)}
    assert found["IoU"] == pytest.approx(by_hand(np.stack(refined), NAMES, NAMES, folder))


def test_label_files_that_count_from_elsewhere(commands, model, folder, tmp_path):
    """Files of ADE20K's kind, and of another label for what is ignored, give the scores of ours."""
    scores = []
    for ignored, given in ((255, []), (0, ["--ignore_zero"]), (200, ["--ignore_label=200", "--label_offset=1"])):
        data, out = shutil.copytree(folder, tmp_path / f"data{ignored}"), tmp_path / f"out{ignored}"
        for path in (data / "labels").iterdir():
            label = np.asarray(Image.open(path))
            Image.fromarray(np.where(label == 255, ignored, label + bool(given)).astype(np.uint8)).save(path)
        commands.output("evaluate", f"--checkpoint={model}", f"--data={data}", f"--out={out}", *given)
        scores.append(report(out))
    assert scores[0] == scores[1] == scores[2]


def test_data_that_cannot_be_scored(commands, model, tmp_path, capsys):
    folder = labelled_folder(tmp_path / "folder", 4)

    def line(*flags, data=folder):
        given = (f"--checkpoint={model}", f"--data={data}", f"--out={tmp_path / 'out'}", *flags)
        return commands.refusal(capsys, "evaluate", *given)

    assert "cannot write" in line(f"--out={folder / 'names.txt'}")
    assert "no such folder" in line(data=tmp_path / "absent")
    (tmp_path / "own/report").mkdir(parents=True)
    (tmp_path / "own/report/thesis.tex").touch()
    assert "own/report is no earlier report, which would be replaced" in line("--report", f"--out={tmp_path / 'own'}")
    assert "--report has no effect without --out" in commands.refusal(
        capsys, "evaluate", f"--checkpoint={model}", f"--data={folder}", "--report"
    )
    assert "3 labels do not fit the data set's 4 classes" in line("--labels=a,b,c")
    assert "which has no moon" in line("--score_labels=tree,moon")
    assert "'grass', another class, stands for 'tree'" in line("--labels=a,house,grass,car")
    assert "classes, of which 2 are scored" in line("--labels=a,b,c", "--score_labels=tree,car")
    assert "--nocrf and --crf_iterations set the same" in line("--nocrf", "--crf_iterations=3")
    assert "--crf_exact has no effect, because crf_iterations is 0" in line("--crf_exact")
    assert "--crf_iterations is -1; it must be in [0, 10000], an integer" in line("--crf_iterations=-1")
    assert "--crf_gaussian_weight" in line("--crf", "--crf_gaussian_weight=-2")
    assert "flag --brightness=dark" in line("--brightness=dark")
    assert "give each name once" in line("--labels=a,b,c,A")
    assert "ignore_zero" in line("--ignore_zero", data="tiny_world")
    assert "no such checkpoint" in line("--checkpoint=absent")
    label = folder / "labels/2.png"
    Image.open(label).crop((0, 0, 50, 40)).save(label)
    assert "50 x 40 pixels" in line()
    Image.fromarray(np.full(SIZE, 9, np.uint8)).save(label)
    assert "2.png: has label id 9, but the 4 names have ids 0 to 3" in line()
    label.unlink()
    assert "no label map for 1 of 4" in line()
    assert not (tmp_path / "out").exists()
