"""What networks were taught: data sets, and how an answer is judged."""

from teachers.tasks.clouds import DigitsCloud, ModelNet
from teachers.tasks.derived import Canvas, Few, Grouped, Levels, Rotated, Shuffled
from teachers.tasks.digits_graph import DigitsGraph
from teachers.tasks.folder import ImageFolder
from teachers.tasks.geometric import Geometric
from teachers.tasks.images import Digits, Images
from teachers.tasks.pairs import Pairs
from teachers.tasks.planetoid import Planetoid
from teachers.tasks.ppi import PPI
from teachers.tasks.published import CIFAR10, CIFAR100, MNIST, FashionMNIST
from teachers.tasks.scenes import Scenes
from teachers.tasks.segmentation import CamVid, Segmentation, SegmentationFolder, Shapes
from teachers.tasks.subset import Subset
from teachers.tasks.tables import BreastCancer, Table
from teachers.tasks.toy import Toy
from teachers.tasks.unseen import Unseen

__all__ = [
    "CIFAR10", "CIFAR100", "MNIST", "PPI", "BreastCancer", "CamVid", "Canvas", "Digits", "DigitsCloud", "DigitsGraph",
    "FashionMNIST", "Few", "Geometric", "Grouped", "ImageFolder", "Images", "Levels", "ModelNet", "Pairs", "Planetoid",
    "Rotated", "Scenes", "Segmentation", "SegmentationFolder", "Shapes", "Shuffled", "Subset", "Table", "Toy", "Unseen",
]  # fmt: skip
