"""What networks were taught: data sets, and how an answer is judged."""

from teachers.tasks.folder import ImageFolder
from teachers.tasks.images import Digits, Images
from teachers.tasks.published import CIFAR10, CIFAR100, MNIST, FashionMNIST
from teachers.tasks.segmentation import CamVid, Segmentation, SegmentationFolder, Shapes
from teachers.tasks.tables import BreastCancer, Table
from teachers.tasks.toy import Toy
from teachers.tasks.unseen import Unseen

__all__ = [
    "CIFAR10", "CIFAR100", "MNIST", "BreastCancer", "CamVid", "Digits", "FashionMNIST", "ImageFolder", "Images",
    "Segmentation", "SegmentationFolder", "Shapes", "Table", "Toy", "Unseen",
]  # fmt: skip
