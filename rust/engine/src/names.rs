//! Under which names a checkpoint's tensors are compared, and which are left out.

use std::sync::Arc;

use crate::manifest::Manifest;

/// The outcome of rename rules and filters for one checkpoint.
#[derive(Clone, Debug, Default)]
pub enum Names {
    /// Every tensor under its own name.
    #[default]
    Own,
    /// Those tensors whose entry is true, under their own names; a byte a tensor.
    Kept(Arc<[bool]>),
    /// Tensors under these names, `None` leaving one out.
    Given(Arc<[Option<String>]>),
}

impl Names {
    /// How many tensors it is for, unless it is for any number.
    pub fn count(&self) -> Option<usize> {
        match self {
            Self::Own => None,
            Self::Kept(kept) => Some(kept.len()),
            Self::Given(names) => Some(names.len()),
        }
    }

    /// Whether tensor `index` is compared at all.
    pub fn keeps(&self, index: usize) -> bool {
        match self {
            Self::Own => true,
            Self::Kept(kept) => kept[index],
            Self::Given(names) => names[index].is_some(),
        }
    }

    /// The name under which tensor `index` of `manifest` is compared.
    pub fn name<'a>(&'a self, manifest: &'a Manifest, index: usize) -> &'a str {
        match self {
            Self::Given(names) => names[index].as_deref(),
            Self::Own | Self::Kept(_) => None,
        }
        .unwrap_or_else(|| manifest.tensor(index).name)
    }

    /// Whether names are those of the manifest, and so in its order and each there once.
    pub(crate) const fn are_own(&self) -> bool {
        matches!(self, Self::Own | Self::Kept(_))
    }
}
