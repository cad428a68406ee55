"""Compares `dlaseg eval --predictions` with the benchmark's own script, on the same files, in turns.

The pairs are copies of drawn scenes of 1024 x 2048; the predictions are the ground truth with errors in blobs and along
borders. Each program scores in a process of its own, imports included; ours also writes its page. The files are written
by OpenCV, or by Pillow, whose rows take longer to decode.

    python benchmarks/cityscapes_scoring.py [--pairs 100] [--scenes 10] [--rounds 3] [--writer opencv] [--folder DIR]
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dlaseg.synthetic.dataset import synthesize

THEIRS = """
import sys, glob
import numpy as np
if not hasattr(np, "in1d"):  # removed from NumPy 2.4, still called by the script
    np.in1d = lambda a, b, invert=False: np.isin(a, b, invert=invert).ravel()
import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as script
script.args.quiet, script.args.JSONOutput = True, False
script.args.predictionPath = sys.argv[2]
truths = sorted(glob.glob(sys.argv[1] + "/gtFine/val/*/*_gtFine_labelIds.png"))
result = script.evaluateImgLists([script.getPrediction(script.args, t) for t in truths], truths, script.args)
print([float(result["averageScore" + name]) for name in ("Classes", "InstClasses", "Categories", "InstCategories")])
"""

OURS = """
import sys, json
from dlaseg.cli import main
code = main(["eval", "--predictions", sys.argv[2], "--dataset", "cityscapes", "--root", sys.argv[1],
             "--output", sys.argv[3]])
means = json.load(open(sys.argv[3] + "/scores.json", encoding="utf-8"))["cityscapes"]["averages"]
print([means[name] for name in ("classes", "instance_classes", "categories", "instance_categories")])
"""


def make(folder: Path, pairs: int, scenes: int, writer: str) -> None:
    """Draws the scenes, makes predictions of them, and copies both."""
    synthesize(folder / "drawn", {"val": scenes}, 1024, 2048, 0)
    rng = np.random.default_rng(0)
    truths = sorted(folder.glob("drawn/gtFine/val/*/*_gtFine_labelIds.png"))
    (folder / "predictions").mkdir()
    (folder / "root/gtFine/val/copy").mkdir(parents=True)
    for index in range(pairs):
        truth = truths[index % scenes]
        name = f"copy_{index:06}_000019"
        target = folder / f"root/gtFine/val/copy/{name}_gtFine_labelIds.png"
        shutil.copy(truth, target)
        shutil.copy(truth.with_name(truth.name.replace("labelIds", "instanceIds")),
                    target.with_name(target.name.replace("labelIds", "instanceIds")))  # fmt: skip
        prediction = folder / f"predictions/{name}_prediction.png"
        if index < scenes:
            ids = cv2.imread(str(truth), cv2.IMREAD_UNCHANGED)
            moved = np.roll(ids, (3, 4), (0, 1))
            wrong = cv2.resize((rng.random((32, 64)) < 0.1).astype(np.uint8), (2048, 1024)) > 0
            cv2.imwrite(str(prediction), np.where(wrong, np.uint8(11), moved))
        else:
            shutil.copy(folder / f"predictions/copy_{index % scenes:06}_000019_prediction.png", prediction)
    if writer == "pillow":
        for path in (*folder.glob("root/gtFine/val/copy/*.png"), *folder.glob("predictions/*.png")):
            with Image.open(path) as picture:
                picture.load()
                picture.save(path)


def main() -> None:
    """Prints every round, the ratio of the medians, and the peak memory for two numbers of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--writer", choices=("opencv", "pillow"), default="opencv")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="cityscapes-"))
    if not (folder / "root").exists():
        make(folder, options.pairs, options.scenes, options.writer)
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    answers = {}
    for turn in range(options.rounds):
        for kind, code in (("theirs", THEIRS), ("ours", OURS)):
            words = [sys.executable, "-c", code, str(folder / "root"), str(folder / "predictions"), str(folder / "out")]
            start = time.perf_counter()
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            seconds[kind].append(time.perf_counter() - start)
            answers[kind] = [float(value) for value in done.stdout.splitlines()[-1].strip("[]").split(",")]
            print(f"round {turn}  {kind:<6}  {seconds[kind][-1]:6.2f} s", flush=True)
    difference = max(abs(a - b) for a, b in zip(answers["theirs"], answers["ours"], strict=True))
    median = {kind: statistics.median(times) for kind, times in seconds.items()}
    print(f"means differ by at most {difference:.1e}")
    print(f"median: theirs {median['theirs']:.2f} s, ours {median['ours']:.2f} s: "
          f"{median['theirs'] / median['ours']:.2f} times as fast")  # fmt: skip
    print(f"peak memory of any: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
