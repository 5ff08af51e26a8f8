//! Which tensors several checkpoints have in common.

use std::cmp::Ordering;
use std::sync::Arc;

use ckptdiff_kernels::DType;

use crate::manifest::{Manifest, StoredDType, TensorView};
use crate::names::Names;
use crate::order::natural_cmp;
use crate::pair::{DuplicateName, Side};

/// What several checkpoints have in common, in natural order of the names.
#[derive(Clone, Debug, Default)]
pub struct Common {
    /// For each checkpoint the indices of its tensors, of which those at one position have one
    /// name, one shape and dtypes that are decoded.
    pub tensors: Vec<Vec<u32>>,
    /// The names that not all have, and which checkpoints do not: they lack the tensor, or have it
    /// in another shape than most, or in a dtype that no kernel knows.
    pub not_common: Vec<(String, Vec<usize>)>,
}

impl Common {
    /// How many tensors all have.
    pub fn len(&self) -> usize {
        self.tensors.first().map_or(0, Vec::len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A common tensor in each of the checkpoints that this is of.
    pub(crate) fn views<'a>(
        &self,
        manifests: &'a [Arc<Manifest>],
        item: usize,
    ) -> Vec<(DType, TensorView<'a>)> {
        let view = |(manifest, tensors): (&'a Arc<Manifest>, &Vec<u32>)| {
            let tensor = manifest.tensor(tensors[item] as usize);
            match tensor.dtype {
                StoredDType::Known(dtype) => (dtype, tensor),
                StoredDType::Unknown(name) => unreachable!("{name} is not common"),
            }
        };
        manifests.iter().zip(&self.tensors).map(view).collect()
    }

    /// How many elements a common tensor has.
    pub(crate) fn elements(&self, manifests: &[Arc<Manifest>], item: usize) -> u64 {
        manifests[0]
            .tensor(self.tensors[0][item] as usize)
            .elements()
    }

    /// Bits of one of its elements in all checkpoints.
    pub(crate) fn element_bits(&self, manifests: &[Arc<Manifest>], item: usize) -> u64 {
        let views = self.views(manifests, item);
        views.iter().map(|(dtype, _)| dtype.bits()).sum()
    }
}

/// Find the tensors that all `manifests` have under one name.
///
/// All are in one order, so a walk along them, always on from the least name, finds every one.
pub fn common(manifests: &[Arc<Manifest>], names: &[Names]) -> Result<Common, DuplicateName> {
    let mut excluded = Vec::new();
    let sides = manifests
        .iter()
        .zip(names)
        .map(|(manifest, names)| Side::new(manifest, names, &mut excluded))
        .collect::<Result<Vec<_>, _>>()?;
    let mut left: Vec<&[u32]> = sides.iter().map(|side| &*side.kept).collect();
    let mut common = Common {
        tensors: vec![Vec::new(); sides.len()],
        not_common: Vec::new(),
    };
    let mut found: Vec<Option<u32>> = vec![None; sides.len()];
    loop {
        let heads = sides.iter().zip(&left);
        let least = heads
            .filter_map(|(side, left)| Some(side.name(*left.first()?)))
            .min_by(|a, b| natural_cmp(a, b));
        let Some(name) = least else {
            break;
        };
        for ((side, left), found) in sides.iter().zip(&mut left).zip(&mut found) {
            let head = left
                .first()
                .filter(|head| natural_cmp(side.name(**head), name) == Ordering::Equal);
            *found = head.copied();
            if found.is_some() {
                *left = &left[1..];
            }
        }
        let without = without(manifests, &found);
        if without.is_empty() {
            for (tensors, found) in common.tensors.iter_mut().zip(&found) {
                tensors.extend(found);
            }
        } else {
            common.not_common.push((name.to_owned(), without));
        }
    }
    Ok(common)
}

/// The checkpoints of which `found` is no tensor, or none that can be held against the others.
fn without(manifests: &[Arc<Manifest>], found: &[Option<u32>]) -> Vec<usize> {
    let shapes: Vec<Option<&[u64]>> = manifests
        .iter()
        .zip(found)
        .map(|(manifest, found)| {
            let tensor = manifest.tensor((*found)? as usize);
            matches!(tensor.dtype, StoredDType::Known(_)).then_some(tensor.shape)
        })
        .collect();
    let first = shapes.iter().flatten().next();
    if shapes
        .iter()
        .all(|shape| shape.is_some() && shape.as_ref() == first)
    {
        return Vec::new();
    }
    let having = |wanted: &[u64]| {
        shapes
            .iter()
            .flatten()
            .filter(|shape| **shape == wanted)
            .count()
    };
    // Of shapes that as many have, the first: `max_by_key` gives the last.
    let usual = shapes
        .iter()
        .rev()
        .flatten()
        .max_by_key(|shape| having(shape));
    let others = shapes.iter().enumerate();
    others
        .filter(|(_, shape)| shape.is_none() || shape.as_ref() != usual)
        .map(|(index, _)| index)
        .collect()
}
