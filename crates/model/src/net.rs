//! DelayNet's forward pass.
//!
//! `x = [embedding(category)…, numerics]`, then a linear layer to the hidden
//! width, residual blocks `x + W₂ · relu(W₁ · norm(x))`, a last layer norm, and one logit.
//! Several members (an ensemble over seeds) are averaged as logits. [`Calibration`] makes a probability of the logit.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

/// The shape of the network; training builds the same one in libtorch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Indexes per category, the unseen bucket included.
    pub cardinalities: Vec<usize>,
    pub embedding_widths: Vec<usize>,
    pub numeric_width: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    pub blocks: usize,
    /// Networks whose logits are averaged.
    pub members: usize,
}

impl Architecture {
    pub fn input_width(&self) -> usize {
        self.embedding_widths.iter().sum::<usize>() + self.numeric_width
    }

    /// How many weights there are, all members together.
    pub fn parameters(&self) -> usize {
        let embeddings: usize = self.cardinalities.iter().zip(&self.embedding_widths).map(|(n, w)| n * w).sum();
        let linear = |i: usize, o: usize| i * o + o;
        let block = 2 * linear(self.hidden, self.hidden) + 2 * self.hidden;
        let one = embeddings
            + linear(self.input_width(), self.hidden)
            + self.blocks * block
            + 2 * self.hidden
            + linear(self.hidden, 1);
        one * self.members
    }

    /// Refuses a shape that makes no network, or one too large to be meant.
    pub fn check(&self) -> Result<(), NetError> {
        let widths = [self.hidden, self.members, self.input_width()];
        let fault = if self.cardinalities.len() != self.embedding_widths.len() {
            "it needs one embedding width per category"
        } else if widths.contains(&0) || self.cardinalities.contains(&0) || self.embedding_widths.contains(&0) {
            "hidden width, members, cardinalities and embedding widths must be at least 1"
        } else if widths.iter().chain([&self.blocks]).any(|width| *width > 1 << 16) {
            "a width or a count is over 65536"
        } else {
            return Ok(());
        };
        Err(NetError::Architecture(fault))
    }

    /// Name and shape of every tensor in `weights.safetensors`, `f32` each.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        for member in 0..self.members {
            let name = |rest: &str| format!("member.{member}.{rest}");
            for (index, (rows, width)) in self.cardinalities.iter().zip(&self.embedding_widths).enumerate() {
                tensors.push((name(&format!("embedding.{index}.weight")), vec![*rows, *width]));
            }
            let mut linear = |rest: String, input: usize, output: usize| {
                tensors.push((name(&format!("{rest}.weight")), vec![output, input]));
                tensors.push((name(&format!("{rest}.bias")), vec![output]));
            };
            linear("input".to_owned(), self.input_width(), self.hidden);
            for block in 0..self.blocks {
                linear(format!("block.{block}.up"), self.hidden, self.hidden);
                linear(format!("block.{block}.down"), self.hidden, self.hidden);
            }
            linear("head".to_owned(), self.hidden, 1);
            let norms = (0..self.blocks).map(|block| format!("block.{block}.norm")).chain(["norm".to_owned()]);
            for norm in norms {
                tensors.push((name(&format!("{norm}.weight")), vec![self.hidden]));
                tensors.push((name(&format!("{norm}.bias")), vec![self.hidden]));
            }
        }
        tensors
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("architecture makes no network: {0}")]
    Architecture(&'static str),
    #[error("weights are not a readable safetensors file")]
    Format(#[from] safetensors::SafeTensorError),
    #[error("weights lack the tensor `{0}`")]
    Missing(String),
    #[error("tensor `{name}` is {found}; the architecture needs f32 {expected:?}")]
    Shape { name: String, found: String, expected: Vec<usize> },
    #[error("tensor `{0}` holds a value that is not finite")]
    NotFinite(String),
}

#[derive(Debug, Clone)]
struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Linear {
    fn forward(&self, input: &[f32], output: &mut [f32]) {
        for ((row, bias), slot) in self.weight.chunks_exact(self.inputs).zip(&self.bias).zip(output) {
            *slot = bias + dot(row, input);
        }
    }
}

/// Sixteen running sums, so that the compiler can keep them in vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (a_head, a_tail) = a.as_chunks::<LANES>();
    let (b_head, b_tail) = b.as_chunks::<LANES>();
    for (x, y) in a_head.iter().zip(b_head) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + tail
}

#[derive(Debug, Clone)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    fn forward(&self, input: &[f32], output: &mut [f32]) {
        const EPSILON: f32 = 1e-5;
        let n = input.len() as f32;
        let mean = input.iter().sum::<f32>() / n;
        let variance = input.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        let scale = 1.0 / (variance + EPSILON).sqrt();
        for (((slot, x), weight), bias) in output.iter_mut().zip(input).zip(&self.weight).zip(&self.bias) {
            *slot = (x - mean) * scale * weight + bias;
        }
    }
}

#[derive(Debug, Clone)]
struct Member {
    embeddings: Vec<Vec<f32>>,
    input: Linear,
    blocks: Vec<(Norm, Linear, Linear)>,
    norm: Norm,
    head: Linear,
}

#[derive(Debug, Clone)]
pub struct DelayNet {
    architecture: Architecture,
    members: Vec<Member>,
}

/// Buffers of one forward pass, kept between calls.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    input: Vec<f32>,
    stream: Vec<f32>,
    normed: Vec<f32>,
    inner: Vec<f32>,
    outer: Vec<f32>,
}

impl DelayNet {
    /// Reads the weights of an architecture from safetensors bytes.
    pub fn from_safetensors(architecture: &Architecture, bytes: &[u8]) -> Result<Self, NetError> {
        architecture.check()?;
        let file = SafeTensors::deserialize(bytes)?;
        let mut tensors = HashMap::new();
        for (name, shape) in architecture.tensors() {
            let view = file.tensor(&name).map_err(|_| NetError::Missing(name.clone()))?;
            if view.dtype() != Dtype::F32 || view.shape() != shape.as_slice() {
                let found = format!("{:?} {:?}", view.dtype(), view.shape());
                return Err(NetError::Shape { name, found, expected: shape });
            }
            let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if values.iter().any(|value| !value.is_finite()) {
                return Err(NetError::NotFinite(name));
            }
            tensors.insert(name, values);
        }
        let members = (0..architecture.members).map(|index| Member::take(architecture, index, &mut tensors)).collect();
        Ok(Self { architecture: architecture.clone(), members })
    }

    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The logit of one encoded row. An index beyond a vocabulary counts as unseen.
    pub fn logit(&self, categories: &[u32], numerics: &[f32], scratch: &mut Scratch) -> f32 {
        let hidden = self.architecture.hidden;
        for buffer in [&mut scratch.stream, &mut scratch.normed, &mut scratch.inner, &mut scratch.outer] {
            buffer.resize(hidden, 0.0);
        }
        let sum: f32 =
            self.members.iter().map(|member| member.logit(&self.architecture, categories, numerics, scratch)).sum();
        sum / self.members.len() as f32
    }
}

impl Member {
    fn take(architecture: &Architecture, index: usize, tensors: &mut HashMap<String, Vec<f32>>) -> Self {
        let mut get = |rest: &str| tensors.remove(&format!("member.{index}.{rest}")).unwrap_or_default();
        let embeddings = (0..architecture.cardinalities.len()).map(|n| get(&format!("embedding.{n}.weight"))).collect();
        let mut linear = |name: &str, inputs: usize| Linear {
            weight: get(&format!("{name}.weight")),
            bias: get(&format!("{name}.bias")),
            inputs,
        };
        let hidden = architecture.hidden;
        let input = linear("input", architecture.input_width());
        let linears: Vec<_> = (0..architecture.blocks)
            .map(|n| (linear(&format!("block.{n}.up"), hidden), linear(&format!("block.{n}.down"), hidden)))
            .collect();
        let head = linear("head", hidden);
        let mut norm = |name: &str| Norm { weight: get(&format!("{name}.weight")), bias: get(&format!("{name}.bias")) };
        let blocks = linears
            .into_iter()
            .enumerate()
            .map(|(n, (up, down))| (norm(&format!("block.{n}.norm")), up, down))
            .collect();
        Self { embeddings, input, blocks, norm: norm("norm"), head }
    }

    fn logit(&self, architecture: &Architecture, categories: &[u32], numerics: &[f32], scratch: &mut Scratch) -> f32 {
        scratch.input.clear();
        for ((table, width), index) in self.embeddings.iter().zip(&architecture.embedding_widths).zip(categories) {
            let start = *index as usize * width;
            let row = table.get(start..start + width).or_else(|| table.get(..*width));
            scratch.input.extend_from_slice(row.unwrap_or_default());
        }
        scratch.input.extend_from_slice(numerics);
        self.input.forward(&scratch.input, &mut scratch.stream);
        for (norm, up, down) in &self.blocks {
            norm.forward(&scratch.stream, &mut scratch.normed);
            up.forward(&scratch.normed, &mut scratch.inner);
            scratch.inner.iter_mut().for_each(|x| *x = x.max(0.0));
            down.forward(&scratch.inner, &mut scratch.outer);
            scratch.stream.iter_mut().zip(&scratch.outer).for_each(|(x, y)| *x += y);
        }
        self.norm.forward(&scratch.stream, &mut scratch.normed);
        scratch.normed.iter_mut().for_each(|x| *x = x.max(0.0));
        let mut logit = [0.0];
        self.head.forward(&scratch.normed, &mut logit);
        logit[0]
    }
}

/// Platt scaling: `p = 1 / (1 + exp(-(slope · logit + intercept)))` (Platt 1999),
/// fitted on the time-ordered tail that training did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Multiplies the logit.
    pub slope: f64,
    /// Is added to it.
    pub intercept: f64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { slope: 1.0, intercept: 0.0 }
    }
}

impl Calibration {
    pub fn probability(&self, logit: f32) -> f32 {
        let z = self.slope * f64::from(logit) + self.intercept;
        (1.0 / (1.0 + (-z).exp())) as f32
    }

    /// Fits slope and intercept on the log-loss with Platt's smoothed targets, by
    /// Newton's method with backtracking (Lin, Lin and Weng 2007: the bare method
    /// runs away from overconfident logits). Falls back to the identity where the
    /// labels are all alike, or where a higher logit would mean a lower risk.
    pub fn fit(logits: &[f32], labels: &[bool]) -> Self {
        let positives = labels.iter().filter(|label| **label).count() as f64;
        let negatives = labels.len() as f64 - positives;
        if positives < 1.0 || negatives < 1.0 {
            return Self::default();
        }
        let high = (positives + 1.0) / (positives + 2.0);
        let low = 1.0 / (negatives + 2.0);
        let pairs = || logits.iter().zip(labels).map(|(x, label)| (f64::from(*x), if *label { high } else { low }));
        let mut fitted = Self { slope: 0.0, intercept: ((positives + 1.0) / (negatives + 1.0)).ln() };
        let mut loss = fitted.log_loss(pairs());
        for _ in 0..100 {
            let Some((step, descent)) = fitted.newton_step(pairs()) else { break };
            let mut scale = 1.0;
            let next = loop {
                let (slope, intercept) = (fitted.slope - scale * step.0, fitted.intercept - scale * step.1);
                let next = Self { slope, intercept };
                let next_loss = next.log_loss(pairs());
                if next_loss < loss - 1e-4 * scale * descent {
                    break Some((next, next_loss));
                }
                scale /= 2.0;
                if scale < 1e-10 {
                    break None;
                }
            };
            let Some((next, next_loss)) = next else { break };
            (fitted, loss) = (next, next_loss);
        }
        let sound = fitted.slope.is_finite() && fitted.intercept.is_finite() && fitted.slope > 0.0;
        if sound { fitted } else { Self::default() }
    }

    /// Sum of the log-loss over pairs of logit and target, stable for any logit.
    fn log_loss(&self, pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
        let loss = |(x, target): (f64, f64)| {
            let z = self.slope * x + self.intercept;
            z.max(0.0) - z * target + (-z.abs()).exp().ln_1p()
        };
        pairs.map(loss).sum()
    }

    /// Newton's step, and how steeply the loss falls along it; `None` at the minimum.
    fn newton_step(&self, pairs: impl Iterator<Item = (f64, f64)>) -> Option<((f64, f64), f64)> {
        const RIDGE: f64 = 1e-12;
        let (mut g0, mut g1, mut h00, mut h01, mut h11) = (0.0, 0.0, RIDGE, 0.0, RIDGE);
        for (x, target) in pairs {
            let p = 1.0 / (1.0 + (-(self.slope * x + self.intercept)).exp());
            let (error, weight) = (p - target, p * (1.0 - p));
            g0 += error * x;
            g1 += error;
            h00 += weight * x * x;
            h01 += weight * x;
            h11 += weight;
        }
        let determinant = h00 * h11 - h01 * h01;
        let step = ((h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant);
        let descent = step.0 * g0 + step.1 * g1;
        (descent.is_finite() && descent > 1e-12).then_some((step, descent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overconfident_logits_are_drawn_back_to_the_observed_rate() {
        let logits: Vec<f32> = (0..1000).map(|n| if n % 2 == 0 { 4.0 } else { -4.0 }).collect();
        let labels: Vec<bool> = (0..1000).map(|n| if n % 2 == 0 { n % 10 < 8 } else { n % 10 >= 9 }).collect();
        let fitted = Calibration::fit(&logits, &labels);
        assert!((fitted.probability(4.0) - 0.8).abs() < 0.01, "{fitted:?}");
        assert!((fitted.probability(-4.0) - 0.2).abs() < 0.01, "{fitted:?}");
    }

    #[test]
    fn a_shifted_and_stretched_truth_is_found_again() {
        let truth = Calibration { slope: 0.6, intercept: -0.8 };
        let logits: Vec<f32> = (0..20_000).map(|n| ((n % 100) as f32 - 50.0) / 10.0).collect();
        // Each logit occurs 200 times; as many of them are labelled as the truth says.
        let label = |(n, x): (usize, &f32)| ((n / 100) as f32) < 200.0 * truth.probability(*x);
        let labels: Vec<bool> = logits.iter().enumerate().map(label).collect();
        let fitted = Calibration::fit(&logits, &labels);
        assert!((fitted.slope - truth.slope).abs() < 0.02, "{fitted:?}");
        assert!((fitted.intercept - truth.intercept).abs() < 0.03, "{fitted:?}");
    }

    #[test]
    fn huge_logits_and_a_constant_one_do_not_run_away() {
        let logits: Vec<f32> = (0..100).map(|n| if n % 3 == 0 { 500.0 } else { -500.0 }).collect();
        let labels: Vec<bool> = (0..100).map(|n| n % 3 == 0).collect();
        assert!(Calibration::fit(&logits, &labels).probability(500.0) > 0.9);
        let constant =
            Calibration::fit(&[0.7; 10], &[true, false, false, false, false, false, false, false, false, true]);
        assert!((0.0..=1.0).contains(&constant.probability(0.7)));
        let reversed = Calibration::fit(&[-1.0, 1.0, -2.0, 2.0], &[true, false, true, false]);
        assert_eq!(reversed, Calibration::default());
    }

    #[test]
    fn labels_that_are_all_alike_leave_the_identity() {
        assert_eq!(Calibration::fit(&[0.5, 1.0], &[true, true]), Calibration::default());
    }
}
