"""All data in one place."""

from __future__ import annotations

import torch
import toys

from cutlayer.data import client_splits, partition
from cutlayer.engines.pooled import pooled


def test_it_trains_on_what_all_clients_train_on() -> None:
    data = toys.dataset()
    shares = client_splits(data, partition(data, 4, "quantity", 0), fraction=0.2)
    (share,) = pooled(shares)
    assert sorted(share.train.index.tolist()) == sorted(i for s in shares for i in s.train.index.tolist())
    assert len(share.test) == 0
    assert not torch.isin(share.train.index, torch.cat([s.test.index for s in shares])).any()
