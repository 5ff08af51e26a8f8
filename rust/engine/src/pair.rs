//! Which tensor of A is held against which of B.

use std::cmp::Ordering;

use crate::manifest::{Manifest, StoredDType};
use crate::names::Names;
use crate::order::natural_cmp;

/// Two tensors of one side would be paired under one name.
#[derive(Debug, thiserror::Error)]
#[error("tensors {first:?} and {second:?} would both be paired as {name:?}")]
pub struct DuplicateName {
    /// The name that both would have.
    pub name: String,
    /// A tensor.
    pub first: String,
    /// Another.
    pub second: String,
}

/// The outcome of pairing, as indices into the manifests; lists are in natural order.
#[derive(Clone, Debug, Default)]
pub struct Pairing {
    /// Same name and shape.
    pub pairs: Vec<(u32, u32)>,
    /// No partner in B.
    pub only_in_a: Vec<u32>,
    /// No partner in A.
    pub only_in_b: Vec<u32>,
    /// Same name, another shape.
    pub shape_mismatch: Vec<(u32, u32)>,
    /// Same name and shape, and a dtype on a side that no kernel knows. Where there is nothing else
    /// to compare they stay among the pairs, so that a run says what is wrong with the first.
    pub unsupported: Vec<(u32, u32)>,
    /// Left out by a filter.
    pub excluded_a: Vec<u32>,
    /// Left out by a filter.
    pub excluded_b: Vec<u32>,
}

/// Pair the tensors of `a` and `b` by name. Rows take the name in B.
///
/// Both sides are in one order, so a walk along the two finds all partners.
pub fn pair(
    a: &Manifest,
    b: &Manifest,
    names_a: &Names,
    names_b: &Names,
) -> Result<Pairing, DuplicateName> {
    let mut pairing = Pairing::default();
    let side_a = Side::new(a, names_a, &mut pairing.excluded_a)?;
    let side_b = Side::new(b, names_b, &mut pairing.excluded_b)?;
    let (mut left_a, mut left_b) = (&*side_a.kept, &*side_b.kept);
    loop {
        let ordering = match (left_a.first(), left_b.first()) {
            (Some(&in_a), Some(&in_b)) => natural_cmp(side_a.name(in_a), side_b.name(in_b)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        match ordering {
            Ordering::Less => pairing.only_in_a.extend(left_a.split_off_first()),
            Ordering::Greater => pairing.only_in_b.extend(left_b.split_off_first()),
            Ordering::Equal => {
                let partners = left_a.split_off_first().zip(left_b.split_off_first());
                let Some((&in_a, &in_b)) = partners else {
                    continue;
                };
                let (tensor_a, tensor_b) = (a.tensor(in_a as usize), b.tensor(in_b as usize));
                let list = if tensor_a.shape != tensor_b.shape {
                    &mut pairing.shape_mismatch
                } else if is_supported(tensor_a.dtype) && is_supported(tensor_b.dtype) {
                    &mut pairing.pairs
                } else {
                    &mut pairing.unsupported
                };
                list.push((in_a, in_b));
            }
        }
    }
    if pairing.pairs.is_empty() {
        std::mem::swap(&mut pairing.pairs, &mut pairing.unsupported);
    }
    Ok(pairing)
}

const fn is_supported(dtype: StoredDType<'_>) -> bool {
    matches!(dtype, StoredDType::Known(_))
}

/// What is left of a checkpoint by its filter.
pub(crate) struct Side<'a> {
    manifest: &'a Manifest,
    names: &'a Names,
    /// In natural order of the names under which they are paired.
    pub(crate) kept: Vec<u32>,
}

impl<'a> Side<'a> {
    pub(crate) fn new(
        manifest: &'a Manifest,
        names: &'a Names,
        excluded: &mut Vec<u32>,
    ) -> Result<Self, DuplicateName> {
        let is_kept = |index: &u32| names.keeps(*index as usize);
        let (kept, left_out) = (0..manifest.len() as u32).partition(is_kept);
        *excluded = left_out;
        let mut side = Self {
            manifest,
            names,
            kept: Vec::new(),
        };
        side.kept = side.in_order(kept)?;
        Ok(side)
    }

    fn in_order(&self, mut kept: Vec<u32>) -> Result<Vec<u32>, DuplicateName> {
        if self.names.are_own() {
            // A manifest is in order, and has no name twice.
            return Ok(kept);
        }
        kept.sort_by(|a, b| natural_cmp(self.name(*a), self.name(*b)));
        for pair in kept.windows(2) {
            let (first, second) = (pair[0], pair[1]);
            if self.name(first) == self.name(second) {
                return Err(DuplicateName {
                    name: self.name(first).to_owned(),
                    first: self.manifest.tensor(first as usize).name.to_owned(),
                    second: self.manifest.tensor(second as usize).name.to_owned(),
                });
            }
        }
        Ok(kept)
    }

    /// The name under which a tensor is paired.
    pub(crate) fn name(&self, index: u32) -> &'a str {
        self.names.name(self.manifest, index as usize)
    }
}
