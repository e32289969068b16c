"""Network families as specs: each has a `build()`, and none has weights."""

from teachers.networks.blocks import Autoencoder, Blocks
from teachers.networks.deeplab import DeepLab
from teachers.networks.densenet import DenseNet
from teachers.networks.dgcnn import DGCNN
from teachers.networks.digits import DigitsCNN
from teachers.networks.given import Given
from teachers.networks.googlenet import GoogLeNet
from teachers.networks.graphs import GAT, GCN, GIN, GraphSAGE, NodeMLP
from teachers.networks.lenet import LeNet, LeNet5
from teachers.networks.library import Timm, Torchvision
from teachers.networks.mlp import MLP
from teachers.networks.network import Network
from teachers.networks.own import Own
from teachers.networks.resnet import ResNet
from teachers.networks.vgg import VGG

__all__ = [
    "DGCNN", "GAT", "GCN", "GIN", "MLP", "VGG", "Autoencoder", "Blocks", "DeepLab", "DenseNet", "DigitsCNN",
    "Given", "GoogLeNet", "GraphSAGE", "LeNet", "LeNet5", "Network", "NodeMLP", "Own", "ResNet", "Timm",
    "Torchvision",
]  # fmt: skip
