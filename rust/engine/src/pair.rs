//! Which tensor of A is held against which of B.

use std::collections::HashMap;

use crate::manifest::Manifest;
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
    /// Left out by a filter.
    pub excluded_a: Vec<u32>,
    /// Left out by a filter.
    pub excluded_b: Vec<u32>,
}

/// A new name for each tensor, `None` leaving it out; or no list at all: its own name.
pub(crate) type Names<'a> = Option<&'a [Option<String>]>;

/// Pair the tensors of `a` and `b` by name. Rows take the name in B.
pub fn pair(
    a: &Manifest,
    b: &Manifest,
    names_a: Names<'_>,
    names_b: Names<'_>,
) -> Result<Pairing, DuplicateName> {
    let mut pairing = Pairing::default();
    let kept_a = kept(a, names_a, &mut pairing.excluded_a);
    let kept_b = kept(b, names_b, &mut pairing.excluded_b);
    let by_name_a = by_name(a, &kept_a)?;
    let by_name_b = by_name(b, &kept_b)?;
    for &(name, index_b) in &kept_b {
        match by_name_a.get(name) {
            None => pairing.only_in_b.push(index_b),
            Some(&index_a) => {
                let same = a.tensor(index_a as usize).shape == b.tensor(index_b as usize).shape;
                let list = if same {
                    &mut pairing.pairs
                } else {
                    &mut pairing.shape_mismatch
                };
                list.push((index_a, index_b));
            }
        }
    }
    for &(name, index_a) in &kept_a {
        if !by_name_b.contains_key(name) {
            pairing.only_in_a.push(index_a);
        }
    }
    Ok(pairing)
}

/// (name, index) of what is not left out, in natural order of the names.
fn kept<'a>(
    manifest: &'a Manifest,
    names: Names<'a>,
    excluded: &mut Vec<u32>,
) -> Vec<(&'a str, u32)> {
    let mut kept = Vec::with_capacity(manifest.len());
    for index in 0..manifest.len() {
        let name = match names {
            None => Some(manifest.tensor(index).name),
            Some(names) => names[index].as_deref(),
        };
        match name {
            Some(name) => kept.push((name, index as u32)),
            None => excluded.push(index as u32),
        }
    }
    if names.is_some() {
        kept.sort_by(|a, b| natural_cmp(a.0, b.0));
    }
    kept
}

fn by_name<'a>(
    manifest: &Manifest,
    kept: &[(&'a str, u32)],
) -> Result<HashMap<&'a str, u32>, DuplicateName> {
    let mut by_name = HashMap::with_capacity(kept.len());
    for &(name, index) in kept {
        if let Some(other) = by_name.insert(name, index) {
            return Err(DuplicateName {
                name: name.to_owned(),
                first: manifest.tensor(other as usize).name.to_owned(),
                second: manifest.tensor(index as usize).name.to_owned(),
            });
        }
    }
    Ok(by_name)
}
