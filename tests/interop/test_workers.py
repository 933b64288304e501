"""DataLoader workers that compute with a sparse model."""

import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, Dataset  # noqa: E402
from twins import images, twins  # noqa: E402


class Features(Dataset):
    """What the sparse model makes of each image."""

    def __init__(self):
        _, model = twins()
        self.model = model.eval()
        self.images = images(10)

    def __len__(self):
        return len(self.images)

    @torch.no_grad()
    def __getitem__(self, index):
        return index, self.model(self.images[index][None])[0]


class Collate:
    """Computes the batch as a whole, in the worker."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def __call__(self, samples):
        return self.model(torch.stack(samples))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_dataset_that_uses_a_sparse_model():
    dataset = Features()
    with torch.no_grad():
        expected = dataset.model(dataset.images)  # the parent has used its threads before it forks
    for _ in range(2):
        found = torch.empty_like(expected)
        for indices, outputs in DataLoader(dataset, batch_size=3, num_workers=2, shuffle=True):
            found[indices] = outputs
        torch.testing.assert_close(found, expected)
        dataset.model[7].prune_by_pct(0.5)
        with torch.no_grad():
            expected = dataset.model(dataset.images)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_collate_function_that_uses_a_sparse_model():
    _, model = twins()
    model.eval()
    loader = DataLoader(images(10), batch_size=5, num_workers=2, collate_fn=Collate(model), persistent_workers=True)
    with torch.no_grad():
        expected = model(images(10))
        for _ in range(2):
            torch.testing.assert_close(torch.cat(list(loader)), expected)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_model_that_trains_from_workers():
    masked, sparse = twins()
    dataset = torch.utils.data.TensorDataset(images(8), torch.arange(8))
    losses = []
    for model in (masked, sparse):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for input, target in DataLoader(dataset, batch_size=4, num_workers=1):
            loss = torch.nn.functional.cross_entropy(model(input), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)
