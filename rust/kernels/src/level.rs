//! Which instruction set the passes are compiled for.
//!
//! Every pass is one generic piece of source. A [`Level`] is the proof that this machine has an
//! instruction set; [`Level::run`] calls the pass from a function compiled for it, into which the
//! pass inlines. So there is one source, one `unsafe` call per level, and any level can be forced.
//!
//! That FMA is enabled fuses nothing by itself: a multiplication and an addition stay two, unless a
//! pass asks for [`Simd::fma_f64`], which rounds once at every level.

use crate::dtype::DType;
use crate::simd::Simd;
#[cfg(target_arch = "x86_64")]
use crate::simd::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use crate::simd::avx512::Avx512;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use crate::simd::neon::Neon;
use crate::simd::portable::Portable;

/// A computation that inlines into whatever function runs it.
pub(crate) trait Pass {
    type Output;

    /// Whether the pass is loops over numbers, with hardly an operation of [`Simd`]. For AVX-512
    /// the compiler makes of such loops, decoders above all, scattered stores and half-empty
    /// registers; they stay AVX2 there.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const LEFT_TO_COMPILER: bool = false;

    /// Must be `#[inline(always)]`, or it is compiled for the baseline only.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    /// What the target guarantees: SSE2 on x86-64, NEON on aarch64.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// What aarch64 guarantees, too, with its instructions chosen by hand.
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon,
}

/// An instruction-set level that this machine was seen to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Isa);

impl Level {
    /// Every level of this machine, the slowest first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)] // There is nothing to add on other architectures.
        let mut levels = vec![Self(Isa::Portable)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma")
        {
            levels.push(Self(Isa::Avx2));
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                levels.push(Self(Isa::Avx512));
            }
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        levels.push(Self(Isa::Neon));
        levels
    }

    /// The fastest level of this machine.
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self(Isa::Portable))
    }

    /// The level of that name, if this machine has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::available()
            .into_iter()
            .find(|level| level.name() == name)
    }

    /// `portable`, `avx2`, `avx512` or `neon`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon => "neon",
        }
    }

    /// Whether passes had better load codes of this dtype than values decoded beforehand; with
    /// the same result, since lanes are in the same order.
    pub(crate) fn loads_codes(self, dtype: DType) -> bool {
        match dtype {
            // Two shifts at any level, and the only order that the passes know for it.
            DType::BF16 | DType::F32 | DType::F64 => true,
            DType::F16 | DType::F8E4M3 | DType::F8E5M2 => self.0 != Isa::Portable,
            _ => false,
        }
    }

    /// Run `pass`, compiled for this level.
    #[inline]
    pub(crate) fn run<P: Pass>(self, pass: P) -> P::Output {
        match self.0 {
            Isa::Portable => portable(pass),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx2` is only made where AVX2, F16C and FMA were detected.
            Isa::Avx2 => unsafe { avx2(pass) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx512` is only made where these and the four of AVX-512 were detected.
            Isa::Avx512 => unsafe {
                if P::LEFT_TO_COMPILER {
                    avx2(pass)
                } else {
                    avx512(pass)
                }
            },
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon => neon(pass),
        }
    }
}

#[inline(never)]
fn portable<P: Pass>(pass: P) -> P::Output {
    pass.run(Portable)
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx2,f16c,fma")]
fn avx2<P: Pass>(pass: P) -> P::Output {
    // SAFETY: this function itself is only called where AVX2, F16C and FMA were detected.
    pass.run(unsafe { Avx2::new() })
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,fma")]
fn avx512<P: Pass>(pass: P) -> P::Output {
    // SAFETY: this function itself is only called where all of these were detected.
    pass.run(unsafe { Avx512::new() })
}

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
#[inline(never)]
fn neon<P: Pass>(pass: P) -> P::Output {
    pass.run(Neon)
}
