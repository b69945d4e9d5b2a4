//! DelayNet in libtorch, one member: the same function as `delayd_model::DelayNet`,
//! with gradients and dropout.
//!
//! [`TorchNet`] is a bundle's network outside of training: what the benchmark compares the plain forward pass with. It is
//! here because no other crate links libtorch.

use delayd_features::{Encoder, FlightRow};
use delayd_model::{Architecture, Bundle};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::nn::VarStore;
use tch::{Device, Kind, TchError, Tensor};

use crate::device::limit_threads;
use crate::error::{TrainingError, WhileDoing};
use crate::rows::{EncodedRows, values_of};
use crate::weights::{MemberWeights, RawTensor, member_tensors, of_bundle};

/// libtorch's default epsilon of a layer norm; `delayd_model` uses the same.
const NORM_EPSILON: f64 = 1e-5;
/// Rows per forward pass outside training.
const SCORING_BATCH: usize = 8192;

#[derive(Debug)]
struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    fn linear(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_linear(&self.weight, Some(&self.bias))
    }

    fn norm(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_layer_norm(self.bias.size(), Some(&self.weight), Some(&self.bias), NORM_EPSILON, false)
    }
}

#[derive(Debug)]
pub(crate) struct Member {
    store: VarStore,
    named: Vec<(String, Tensor)>,
    embeddings: Vec<Tensor>,
    input: Affine,
    blocks: Vec<(Affine, Affine, Affine)>,
    norm: Affine,
    head: Affine,
}

impl Member {
    pub(crate) fn new(
        architecture: &Architecture,
        weights: &MemberWeights,
        device: Device,
    ) -> Result<Self, TrainingError> {
        let doing = "building the network";
        let store = VarStore::new(device);
        let mut named = Vec::new();
        for (name, shape) in member_tensors(architecture) {
            let dimensions: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
            let zeros = || RawTensor { values: vec![0.0; shape.iter().product()], shape: shape.clone() };
            let raw = weights.get(&name).cloned().unwrap_or_else(zeros);
            let tensor = Tensor::f_from_slice(&raw.values).and_then(|t| t.f_view(dimensions.as_slice()));
            let tensor = tensor.while_doing(doing)?;
            // libtorch's names may hold no dots.
            let variable = store.root().f_var_copy(&name.replace('.', "/"), &tensor).while_doing(doing)?;
            named.push((name, variable));
        }
        let get = |name: &str| {
            let found = named.iter().find(|(other, _)| other == name).map(|(_, tensor)| tensor.shallow_clone());
            found.unwrap_or_else(Tensor::new)
        };
        let affine = |name: &str| Affine { weight: get(&format!("{name}.weight")), bias: get(&format!("{name}.bias")) };
        let block = |n: usize| {
            let part = |part: &str| affine(&format!("block.{n}.{part}"));
            (part("norm"), part("up"), part("down"))
        };
        Ok(Self {
            embeddings: (0..architecture.cardinalities.len()).map(|n| get(&format!("embedding.{n}.weight"))).collect(),
            input: affine("input"),
            blocks: (0..architecture.blocks).map(block).collect(),
            norm: affine("norm"),
            head: affine("head"),
            named,
            store,
        })
    }

    pub(crate) fn store(&self) -> &VarStore {
        &self.store
    }

    /// Logits of rows, `f32 [rows]`; with `masks`, as in training.
    pub(crate) fn forward(&self, rows: &EncodedRows, masks: Option<&mut Masks>) -> Result<Tensor, TchError> {
        let mut masks = masks;
        let categories = match masks.as_mut() {
            Some(masks) => masks.hide_categories(&rows.categories)?,
            None => rows.categories.shallow_clone(),
        };
        let mut parts = Vec::with_capacity(self.embeddings.len() + 1);
        for (index, table) in self.embeddings.iter().enumerate() {
            let indexes = categories.f_select(1, index as i64)?;
            parts.push(Tensor::f_embedding(table, &indexes, -1, false, false)?);
        }
        parts.push(rows.numerics.shallow_clone());
        let mut stream = self.input.linear(&Tensor::f_cat(&parts, 1)?)?;
        for (norm, up, down) in &self.blocks {
            let inner = up.linear(&norm.norm(&stream)?)?.f_relu()?;
            let inner = match masks.as_mut() {
                Some(masks) => masks.drop_out(inner)?,
                None => inner,
            };
            stream = stream.f_add(&down.linear(&inner)?)?;
        }
        self.head.linear(&self.norm.norm(&stream)?.f_relu()?)?.f_squeeze_dim(1)
    }

    /// Logits of any number of rows, without gradients.
    pub(crate) fn logits(&self, rows: &EncodedRows) -> Result<Vec<f32>, TrainingError> {
        let mut logits = Vec::with_capacity(rows.rows);
        for start in (0..rows.rows).step_by(SCORING_BATCH) {
            let batch = rows.narrow(start, SCORING_BATCH.min(rows.rows - start))?;
            let scored = tch::no_grad(|| self.forward(&batch, None)).while_doing("scoring rows")?;
            logits.extend(values_of(&scored)?);
        }
        Ok(logits)
    }

    pub(crate) fn weights(&self) -> Result<MemberWeights, TrainingError> {
        let read = |(name, tensor): &(String, Tensor)| {
            let shape = tensor.size().iter().map(|size| *size as usize).collect();
            Ok((name.clone(), RawTensor { shape, values: values_of(tensor)? }))
        };
        self.named.iter().map(read).collect()
    }
}

pub(crate) fn ensemble_logits(members: &[Member], rows: &EncodedRows) -> Result<Vec<f32>, TrainingError> {
    let mut sums = vec![0.0_f32; rows.rows];
    for member in members {
        sums.iter_mut().zip(member.logits(rows)?).for_each(|(sum, logit)| *sum += logit);
    }
    let count = members.len().max(1) as f32;
    sums.iter_mut().for_each(|sum| *sum /= count);
    Ok(sums)
}

/// Dropout from a pool of draws made once: a stretch of the pool at a random place
/// is much cheaper than fresh draws, and comes from the run's own generator.
#[derive(Debug)]
pub(crate) struct Masks {
    random: ChaCha8Rng,
    dropout: Option<Tensor>,
    seen: Option<Tensor>,
    pool: i64,
}

impl Masks {
    /// Values in the pool beyond the longest stretch.
    const SPARE: usize = 1 << 21;

    /// Draws the pools; `longest` is the most values one stretch needs.
    pub(crate) fn new(
        dropout: f64,
        unseen_share: f64,
        longest: usize,
        seed: u64,
        device: Device,
    ) -> Result<Self, TrainingError> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let pool = longest + Self::SPARE;
        let doing = "drawing dropout masks";
        let mut draw = |share: f64, kept: f32, kind: Kind| -> Result<Option<Tensor>, TrainingError> {
            if share <= 0.0 {
                return Ok(None);
            }
            let values: Vec<f32> = (0..pool).map(|_| if random.random::<f64>() < share { 0.0 } else { kept }).collect();
            let tensor =
                Tensor::f_from_slice(&values).and_then(|t| t.f_to_kind(kind)).and_then(|t| t.f_to_device(device));
            tensor.while_doing(doing).map(Some)
        };
        let dropout = draw(dropout, (1.0 / (1.0 - dropout)) as f32, Kind::Float)?;
        let seen = draw(unseen_share, 1.0, Kind::Int64)?;
        Ok(Self { random, dropout, seen, pool: pool as i64 })
    }

    fn stretch(random: &mut ChaCha8Rng, pool: &Tensor, length: i64, like: &Tensor) -> Result<Tensor, TchError> {
        let count = like.numel() as i64;
        pool.f_narrow(0, random.random_range(0..=length - count), count)?.f_view(like.size().as_slice())
    }

    fn drop_out(&mut self, values: Tensor) -> Result<Tensor, TchError> {
        match &self.dropout {
            Some(pool) => values.f_mul(&Self::stretch(&mut self.random, pool, self.pool, &values)?),
            None => Ok(values),
        }
    }

    /// Sends some values to index 0, the bucket for the unseen.
    fn hide_categories(&mut self, indexes: &Tensor) -> Result<Tensor, TchError> {
        match &self.seen {
            Some(pool) => indexes.f_mul(&Self::stretch(&mut self.random, pool, self.pool, indexes)?),
            None => Ok(indexes.shallow_clone()),
        }
    }
}

/// All members of a bundle's network, on the CPU.
#[derive(Debug)]
pub struct TorchNet(Vec<Member>);

/// Encoded rows as tensors on the CPU.
#[derive(Debug)]
pub struct TorchRows(EncodedRows);

impl TorchNet {
    /// Builds the network. From then on libtorch computes on the calling thread with `threads` threads.
    pub fn of_bundle(bundle: &Bundle, threads: usize) -> Result<Self, TrainingError> {
        limit_threads(threads);
        let architecture = &bundle.model.architecture;
        let members = of_bundle(bundle)?;
        let members = members.iter().map(|weights| Member::new(architecture, weights, Device::Cpu));
        members.collect::<Result<_, _>>().map(Self)
    }

    /// The logit of each row, the mean over the members.
    pub fn logits(&self, rows: &TorchRows) -> Result<Vec<f32>, TrainingError> {
        ensemble_logits(&self.0, &rows.0)
    }
}

impl TorchRows {
    /// Encodes rows, in order.
    pub fn encode(encoder: &Encoder, rows: &[&FlightRow]) -> Result<Self, TrainingError> {
        EncodedRows::encode(encoder, rows, Device::Cpu).map(Self)
    }
}
