"""Dispatch and combine: tokens to the ranks of their experts and results back, by all-to-all over a process group.

A token travels once to each rank that holds one of its experts, with the list of those experts beside it; each
expert's result travels back by itself, so that the token's own rank can sum them in the router's order. That keeps the
sum independent of the number of ranks and of the placement. Three collectives per layer: the counts, the tokens, the
results. Splits may be uneven or empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from model.experts.compute import tally

ALIGN = 16  # bytes; so that the parts of a packed row can be viewed as numbers


@dataclass(frozen=True, slots=True)
class Arrived:
    """What one rank has to compute: `x` [R, H] tokens, and P pairs of a token (`rows` [P]) and a slot (`slots` [P])."""

    x: Tensor
    rows: Tensor
    slots: Tensor


@dataclass(frozen=True, slots=True)
class Ticket:
    """How the results come home: pairs sent to and received from each rank, and `where` [T, k] each will be found."""

    sent: list[int]
    received: list[int]
    where: Tensor


def dispatch(x: Tensor, rank_of: Tensor, slot_of: Tensor, group: dist.ProcessGroup) -> tuple[Arrived, Ticket, int]:
    """Send each token of `x` [T, H] to the ranks in `rank_of` [T, k], with its slots there, `slot_of` [T, k].

    Collective: every rank of the group calls it, with T = 0 if it has nothing. Returns what arrived here, the ticket
    for `send_back`, and the bytes sent to other ranks.
    """
    ranks, me = group.size(), group.rank()
    tokens, k = rank_of.shape
    goes = torch.zeros(ranks, tokens, dtype=torch.bool, device=x.device)
    goes.scatter_(0, rank_of.t(), True)
    target, token = goes.nonzero(as_tuple=True)  # by target rank, then token
    slots = torch.where(rank_of[token] == target[:, None], slot_of[token], -1).to(torch.int32)

    # Rows and pairs for each rank, so that everyone can make room.
    pairs = tally(rank_of.reshape(-1), ranks)
    sizes = torch.stack([goes.sum(1), pairs], 1)
    sizes_in = torch.empty_like(sizes)
    dist.all_to_all_single(sizes_in, sizes, group=group)
    (rows_out, pairs_out), (rows_in, pairs_in) = sizes.t().tolist(), sizes_in.t().tolist()

    # One message of bytes: slots first, then the token itself.
    head = -(-4 * k // ALIGN) * ALIGN
    stride = head + -(-x.shape[1] * x.itemsize // ALIGN) * ALIGN
    out = torch.empty(len(token), stride, dtype=torch.uint8, device=x.device)
    out[:, : 4 * k].view(torch.int32).copy_(slots)
    out[:, head : head + x.shape[1] * x.itemsize].view(x.dtype).copy_(x[token])
    arrived = torch.empty(sum(rows_in), stride, dtype=torch.uint8, device=x.device)
    dist.all_to_all_single(arrived, out, rows_in, rows_out, group=group)

    slots_in = arrived[:, : 4 * k].view(torch.int32)
    rows, choice = (slots_in >= 0).nonzero(as_tuple=True)
    x_in = arrived[:, head : head + x.shape[1] * x.itemsize].view(x.dtype)

    # Results will come by rank, token, router choice: the order of the pairs that went out.
    sent_row, sent_choice = (slots >= 0).nonzero(as_tuple=True)
    where = torch.empty(tokens * k, dtype=torch.int64, device=x.device)
    where[token[sent_row] * k + sent_choice] = torch.arange(tokens * k, device=x.device)
    ticket = Ticket(pairs_out, pairs_in, where.view(tokens, k))
    moved = (sum(rows_out) - rows_out[me]) * stride
    return Arrived(x_in, rows, slots_in[rows, choice].long()), ticket, moved


def send_back(outputs: Tensor, ticket: Ticket, group: dist.ProcessGroup) -> tuple[Tensor, int]:
    """Return `outputs` [P, H], in the order of the arrived pairs. Collective.

    Returns the results of this rank's own tokens [T * k, H] (find them by `ticket.where`) and the bytes sent.
    """
    home = torch.empty(sum(ticket.sent), outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    dist.all_to_all_single(home, outputs, ticket.sent, ticket.received, group=group)
    moved = (sum(ticket.received) - ticket.received[group.rank()]) * outputs.shape[1] * outputs.itemsize
    return home, moved
