"""What networks were taught: data sets, and how an answer is judged."""

from teachers.tasks.folder import ImageFolder
from teachers.tasks.images import Digits, Images

__all__ = ["Digits", "ImageFolder", "Images"]
