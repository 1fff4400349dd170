"""The data of an experiment: which training images it has, and how images are evaluated."""

import numpy as np
import pytest
import tiny

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.data.registry import Images


def test_evaluation_sees_every_image_once_and_classes_mixed() -> None:
    # Batch normalisation would see one class alone where files come sorted by class.
    experiment = tiny.experiment_of("evaluation.batch_size=100")
    test = experiment.dataset.test
    by_class = np.argsort(test.labels, kind="stable")
    images = Images(test.images[by_class], test.labels[by_class])

    batches = [labels.numpy() for _, labels in experiment.batches(images)]

    sizes = [len(labels) for labels in batches]
    assert max(sizes) <= 100
    assert max(sizes) - min(sizes) <= 1
    assert np.array_equal(np.sort(np.concatenate(batches)), images.labels)
    assert all(len(np.unique(labels)) == 10 for labels in batches)


def test_a_part_of_the_training_images_is_the_same_for_every_seed() -> None:
    whole = tiny.experiment_of("data.train_images=null").dataset
    some, other = (
        tiny.experiment_of("data.train_images=500", f"seed={seed}").dataset for seed in (0, 1)
    )

    assert len(some.train.labels) == len(some.train.images) == 500
    assert np.array_equal(some.train.images, other.train.images)
    assert np.array_equal(some.test.images, whole.test.images)
    kept = {image.tobytes() for image in some.train.images}
    assert kept <= {image.tobytes() for image in whole.train.images}
    assert len(np.unique(some.train.labels)) == 10


def test_more_training_images_than_there_are_is_one_line() -> None:
    with pytest.raises(SettingsError, match=r"data\.train_images: there are 1437 .* found 5000"):
        tiny.experiment_of("data.train_images=5000")
