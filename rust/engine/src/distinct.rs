//! Tensors that are the very same bytes, which are read once.
//!
//! Weights that are tied have two names and one place. What is reduced from a place depends on
//! nothing but the bytes there and their dtype, so one partial serves all names. Where no two items
//! share a place, which is nearly always, nothing is kept.

use std::cmp::Ordering;

use crate::manifest::TensorView;

/// Which items of a run stand for which.
pub(crate) struct Distinct {
    /// The items that are reduced, in their order.
    pub firsts: Vec<u32>,
    /// For each item, where in `firsts` the one is that has its bytes.
    pub of: Vec<u32>,
}

impl Distinct {
    /// Compare `count` items by their places; None where no two are the same.
    ///
    /// By sorting and not by hashing: a checkpoint can have a million tensors, and each takes four
    /// bytes here.
    pub(crate) fn of(count: usize, compare: impl Fn(u32, u32) -> Ordering) -> Option<Self> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.sort_unstable_by(|a, b| compare(*a, *b).then(a.cmp(b)));
        let same = |pair: &[u32]| compare(pair[0], pair[1]) == Ordering::Equal;
        if !order.windows(2).any(same) {
            return None;
        }
        // Of items that are the same the first stands first, and is the one that is reduced.
        let mut first_of: Vec<u32> = (0..count as u32).collect();
        for at in 1..order.len() {
            if same(&order[at - 1..=at]) {
                first_of[order[at] as usize] = first_of[order[at - 1] as usize];
            }
        }
        let mut firsts = Vec::new();
        let mut of = vec![0; count];
        for item in 0..count {
            of[item] = if first_of[item] as usize == item {
                firsts.push(item as u32);
                firsts.len() as u32 - 1
            } else {
                of[first_of[item] as usize]
            };
        }
        Some(Self { firsts, of })
    }

    /// Give each item what was made of the one that has its bytes.
    pub(crate) fn spread<T: Clone>(&self, made: &[T]) -> Vec<T> {
        self.of
            .iter()
            .map(|at| made[*at as usize].clone())
            .collect()
    }
}

/// Order tensors by their places and dtypes; those of one manifest that are equal are the same.
pub(crate) fn by_place(a: TensorView<'_>, b: TensorView<'_>) -> Ordering {
    a.spans
        .cmp(b.spans)
        .then_with(|| a.dtype.name().cmp(b.dtype.name()))
        // Without spans there is nothing to read, and lengths may differ.
        .then_with(|| a.shape.cmp(b.shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_same_is_reduced() {
        let places = [5, 3, 5, 9, 3, 5];
        let found = Distinct::of(6, |a, b| places[a as usize].cmp(&places[b as usize]))
            .expect("some are the same");
        assert_eq!(found.firsts, [0, 1, 3]);
        assert_eq!(found.of, [0, 1, 0, 2, 1, 0]);
        assert_eq!(
            found.spread(&["a", "b", "c"]),
            ["a", "b", "a", "c", "b", "a"]
        );
    }

    #[test]
    fn nothing_is_kept_where_all_differ() {
        assert!(Distinct::of(4, |a, b| a.cmp(&b)).is_none());
        assert!(Distinct::of(0, |a, b| a.cmp(&b)).is_none());
    }
}
