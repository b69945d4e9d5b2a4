//! The network's forward pass in plain Rust, as it serves, next to libtorch's.

use anyhow::{Result, anyhow, ensure};
use delayd_features::{Encoded, FlightRow};
use delayd_model::{Architecture, Bundle, DelayNet, Scratch};
use safetensors::SafeTensors;
use tch::{TchError, Tensor};

use crate::model::Model;
use crate::table::Figures;
use crate::timing::median_seconds;

struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    fn linear(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_linear(&self.weight, Some(&self.bias))
    }

    fn norm(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_layer_norm(self.bias.size(), Some(&self.weight), Some(&self.bias), 1e-5, false)
    }
}

/// One member of DelayNet in libtorch, as training has it.
struct TorchMember {
    embeddings: Vec<Tensor>,
    pub(crate) input: Affine,
    blocks: Vec<(Affine, Affine, Affine)>,
    norm: Affine,
    pub(crate) head: Affine,
}

impl TorchMember {
    pub(crate) fn read(architecture: &Architecture, file: &SafeTensors<'_>, member: usize) -> Result<Self> {
        let get = |rest: &str| -> Result<Tensor> {
            let view = file.tensor(&format!("member.{member}.{rest}"))?;
            let bytes = view.data().chunks_exact(4);
            let values: Vec<f32> = bytes.filter_map(|b| Some(f32::from_le_bytes(b.try_into().ok()?))).collect();
            let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
            Ok(Tensor::f_from_slice(&values)?.f_view(shape.as_slice())?)
        };
        let affine = |name: &str| -> Result<Affine> {
            Ok(Affine { weight: get(&format!("{name}.weight"))?, bias: get(&format!("{name}.bias"))? })
        };
        let embeddings = (0..architecture.cardinalities.len()).map(|n| get(&format!("embedding.{n}.weight")));
        let blocks = (0..architecture.blocks).map(|n| {
            let part = |part: &str| affine(&format!("block.{n}.{part}"));
            anyhow::Ok((part("norm")?, part("up")?, part("down")?))
        });
        Ok(Self {
            embeddings: embeddings.collect::<Result<_>>()?,
            blocks: blocks.collect::<Result<_>>()?,
            input: affine("input")?,
            norm: affine("norm")?,
            head: affine("head")?,
        })
    }

    pub(crate) fn forward(&self, rows: &TorchRows) -> Result<Tensor, TchError> {
        let mut parts = Vec::with_capacity(self.embeddings.len() + 1);
        for (index, table) in self.embeddings.iter().enumerate() {
            let indexes = rows.categories.f_select(1, index as i64)?;
            parts.push(Tensor::f_embedding(table, &indexes, -1, false, false)?);
        }
        parts.push(rows.numerics.shallow_clone());
        let mut stream = self.input.linear(&Tensor::f_cat(&parts, 1)?)?;
        for (norm, up, down) in &self.blocks {
            let inner = up.linear(&norm.norm(&stream)?)?.f_relu()?;
            stream = stream.f_add(&down.linear(&inner)?)?;
        }
        self.head.linear(&self.norm.norm(&stream)?.f_relu()?)?.f_squeeze_dim(1)
    }
}

struct TorchRows {
    pub(crate) categories: Tensor,
    pub(crate) numerics: Tensor,
}

impl TorchRows {
    pub(crate) fn new(rows: &[Encoded]) -> Result<Self> {
        let count = rows.len() as i64;
        let categories: Vec<i64> = rows.iter().flat_map(|row| row.categories.iter().map(|n| i64::from(*n))).collect();
        let numerics: Vec<f32> = rows.iter().flat_map(|row| row.numerics.iter().copied()).collect();
        Ok(Self {
            categories: Tensor::f_from_slice(&categories)?.f_view([count, -1].as_slice())?,
            numerics: Tensor::f_from_slice(&numerics)?.f_view([count, -1].as_slice())?,
        })
    }
}

fn torch_logits(members: &[TorchMember], rows: &TorchRows) -> Result<Vec<f32>> {
    let mut sums: Vec<f32> = Vec::new();
    for member in members {
        let logits = Vec::<f32>::try_from(&tch::no_grad(|| member.forward(rows))?)?;
        sums.resize(logits.len(), 0.0);
        sums.iter_mut().zip(logits).for_each(|(sum, logit)| *sum += logit);
    }
    sums.iter_mut().for_each(|sum| *sum /= members.len().max(1) as f32);
    Ok(sums)
}

/// Seconds of plain Rust and of libtorch: for one row, then for all rows at once.
struct ForwardTimes {
    one: (f64, f64),
    all: (f64, f64),
}

fn time_forward_passes(bundle: &Bundle, rows: &[Encoded]) -> Result<ForwardTimes> {
    // Settles the number of threads for this thread, as training does.
    tch::set_num_threads(1);
    let threads = tch::get_num_threads();
    ensure!(threads == 1, "libtorch computes with {threads} threads, not with one");
    let architecture = &bundle.model.architecture;
    let file = SafeTensors::deserialize(&bundle.weights)?;
    let members = (0..architecture.members).map(|n| TorchMember::read(architecture, &file, n));
    let members = members.collect::<Result<Vec<_>>>()?;
    let net = DelayNet::from_safetensors(architecture, &bundle.weights)?;
    let together = TorchRows::new(rows)?;
    let singles = rows.iter().take(256).map(|row| TorchRows::new(std::slice::from_ref(row)));
    let singles = singles.collect::<Result<Vec<_>>>()?;

    let mut scratch = Scratch::default();
    let found = torch_logits(&members, &together)?;
    ensure!(found.len() == rows.len(), "libtorch answers {} logits to {} rows", found.len(), rows.len());
    let mut apart = 0.0_f32;
    for (row, logit) in rows.iter().zip(&found) {
        apart = apart.max((net.logit(&row.categories, &row.numerics, &mut scratch) - logit).abs());
    }
    ensure!(apart < 1e-2, "the two forward passes differ by {apart}: they are not the same network");

    let mut plain = |rows: &[Encoded]| {
        for row in rows {
            std::hint::black_box(net.logit(&row.categories, &row.numerics, &mut scratch));
        }
        Ok(())
    };
    let (few, count) = (&rows[..singles.len()], singles.len() as f64);
    let plain_one = median_seconds(40, || plain(few))? / count;
    let plain_all = median_seconds(40, || plain(rows))?;
    let torch_one = median_seconds(40, || {
        singles.iter().try_for_each(|row| torch_logits(&members, row).map(|logits| drop(std::hint::black_box(logits))))
    })?;
    let torch_all =
        median_seconds(40, || torch_logits(&members, &together).map(|logits| drop(std::hint::black_box(logits))))?;
    Ok(ForwardTimes { one: (plain_one, torch_one / count), all: (plain_all, torch_all) })
}

pub(crate) fn forward_passes(figures: &mut Figures, model: &Model, rows: &[&FlightRow]) -> Result<()> {
    let encoded: Vec<Encoded> = rows.iter().take(1024).map(|row| model.predictor.encoder().encode(row)).collect();
    ensure!(!encoded.is_empty(), "there are no rows");
    // A thread of its own: libtorch's number of threads stays with it.
    let times = std::thread::scope(|scope| {
        let work = scope.spawn(|| time_forward_passes(&model.bundle, &encoded));
        work.join().map_err(|_| anyhow!("the measuring thread panicked"))?
    })?;
    let note = "rows encoded before, one thread each, same rows, same logits";
    for (what, (plain, torch)) in [("1 row".to_owned(), times.one), (format!("{} rows", encoded.len()), times.all)] {
        figures.add(format!("forward pass of {what}, plain Rust"), plain * 1e6, "µs", note);
        figures.add(format!("forward pass of {what}, libtorch"), torch * 1e6, "µs", note);
        figures.add(
            format!("forward pass of {what}, libtorch / plain Rust"),
            torch / plain,
            "×",
            "over 1: Rust is faster",
        );
    }
    Ok(())
}
