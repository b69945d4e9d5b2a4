//! DelayNet's forward pass.
//!
//! `x = [embedding(category)…, numerics]`, then a linear layer to the hidden
//! width, residual blocks `x + W₂ · relu(W₁ · norm(x))`, a last layer norm, and one logit.
//! Several members (an ensemble over seeds) are averaged as logits.

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
