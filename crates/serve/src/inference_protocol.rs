//! The Open Inference Protocol, version 2 (KServe's "V2" REST API): named
//! tensors in, named tensors out, one row per flight. Flights are checked by the
//! same rules as those of `POST /predict`.

use actix_web::http::StatusCode;
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use delayd_features::NumericInput;
use delayd_model::admin::ReplicaPhase;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{ApiError, Faults, Place, Violation, json_body};
use crate::flight::{FIELDS, Flight, FlightDraft, Scalar};
use crate::http::{get, is_probe, post};
use crate::predict::{PredictedFlight, predict};
use crate::replica::{Replica, Worker};

/// The model's name in paths.
const MODEL: &str = "delaynet";

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(get("/v2", server_metadata))
        .service(get("/v2/health/live", || async { HttpResponse::Ok().json(json!({ "live": true })) }))
        .service(get("/v2/health/ready", server_ready));
    for path in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        config
            .service(post(&format!("{path}/infer"), infer))
            .service(get(&format!("{path}/ready"), model_ready))
            .service(get(path, model_metadata));
    }
}

/// An error in the protocol's shape: `{"error": "…"}`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct ProtocolError {
    status: StatusCode,
    message: String,
}

impl ProtocolError {
    fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }
}

impl ResponseError for ProtocolError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status).json(json!({ "error": self.message }))
    }
}

impl From<ApiError> for ProtocolError {
    fn from(error: ApiError) -> Self {
        let message = match &error {
            ApiError::Invalid(violations) => violations.iter().map(line_of).collect::<Vec<_>>().join("; "),
            other => other.to_string(),
        };
        // The protocol knows no 422: a request it cannot use is a bad one.
        let status = if matches!(error, ApiError::Invalid(_)) { StatusCode::BAD_REQUEST } else { error.status_code() };
        Self { status, message }
    }
}

fn line_of(violation: &Violation) -> String {
    let place = violation.loc.iter().skip(1).map(|place| match place {
        Place::Name(name) => name.to_string(),
        Place::Index(row) => format!("row {row}"),
    });
    format!("{}: {}", place.collect::<Vec<_>>().join(", "), violation.msg)
}

async fn server_metadata() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "name": "delayd-serve", "version": env!("CARGO_PKG_VERSION"), "extensions": [] }))
}

async fn server_ready(worker: Data<Worker>) -> HttpResponse {
    readiness(&worker.replica, json!({ "ready": worker.replica.phase() == ReplicaPhase::Ready }))
}

async fn model_ready(request: HttpRequest, worker: Data<Worker>) -> Result<HttpResponse, ProtocolError> {
    check_path(&request, &worker.replica)?;
    let ready = worker.replica.phase() == ReplicaPhase::Ready;
    Ok(readiness(&worker.replica, json!({ "name": MODEL, "ready": ready })))
}

fn readiness(replica: &Replica, body: Value) -> HttpResponse {
    let ready = replica.phase() == ReplicaPhase::Ready;
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(body)
}

fn check_path(request: &HttpRequest, replica: &Replica) -> Result<(), ProtocolError> {
    let not_found = |message| Err(ProtocolError { status: StatusCode::NOT_FOUND, message });
    let part = |name| request.match_info().get(name);
    match (part("model"), part("version")) {
        (Some(MODEL), Some(version)) if version != replica.model.version => {
            not_found(format!("model `{MODEL}` is served in version `{}`, not `{version}`", replica.model.version))
        }
        (Some(MODEL), _) => Ok(()),
        (other, _) => not_found(format!("no model `{}`; this service has `{MODEL}`", other.unwrap_or_default())),
    }
}

async fn model_metadata(request: HttpRequest, worker: Data<Worker>) -> Result<HttpResponse, ProtocolError> {
    check_path(&request, &worker.replica)?;
    let tensor = |name: &str, datatype: &str| json!({ "name": name, "datatype": datatype, "shape": [-1] });
    let fields = FIELDS.iter().map(|name| match *name {
        "flight_number" => tensor(name, "INT64"),
        "distance_miles" => tensor(name, "FP32"),
        _ => tensor(name, "BYTES"),
    });
    let context = worker.replica.model.context.iter().map(|input| tensor(input.name(), "FP32"));
    Ok(HttpResponse::Ok().json(json!({
        "name": MODEL,
        "versions": [worker.replica.model.version],
        "platform": "delayd_delaynet",
        "inputs": fields.chain(context).collect::<Vec<_>>(),
        "outputs": [tensor("score", "FP32"), tensor("delayed", "BOOL")],
    })))
}

#[derive(Debug, Deserialize)]
struct InferRequest {
    id: Option<String>,
    inputs: Vec<InputTensor>,
    outputs: Option<Vec<RequestedOutput>>,
}

#[derive(Debug, Deserialize)]
struct InputTensor {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    data: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct RequestedOutput {
    name: String,
}

async fn infer(
    request: HttpRequest,
    payload: web::Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ProtocolError> {
    let replica = &worker.replica;
    check_path(&request, replica)?;
    let body = json_body(&request, payload, replica.max_body_bytes, &replica.body_memory).await?;
    let asked: InferRequest = serde_json::from_slice(&body)
        .map_err(|error| ProtocolError::bad_request(format!("not an inference request: {error}")))?;
    let outputs = wanted_outputs(&asked)?;
    let flights = flights_of(asked.inputs, replica.max_batch)?;
    let predictions = predict(&worker, &flights, is_probe(&request)).await;
    let outputs: Vec<Value> = outputs.into_iter().map(|output| output.tensor(&predictions)).collect();
    let mut answer = json!({ "model_name": MODEL, "model_version": replica.model.version, "outputs": outputs });
    if let Some(id) = asked.id {
        answer["id"] = id.into();
    }
    Ok(HttpResponse::Ok().json(answer))
}

#[derive(Debug, Clone, Copy)]
enum Output {
    Score,
    Delayed,
}

impl Output {
    fn tensor(self, predictions: &[PredictedFlight]) -> Value {
        let shape = [predictions.len()];
        match self {
            Self::Score => {
                let data: Vec<f32> = predictions.iter().map(|prediction| prediction.score).collect();
                json!({ "name": "score", "datatype": "FP32", "shape": shape, "data": data })
            }
            Self::Delayed => {
                let data: Vec<bool> = predictions.iter().map(|prediction| prediction.delayed).collect();
                json!({ "name": "delayed", "datatype": "BOOL", "shape": shape, "data": data })
            }
        }
    }
}

fn wanted_outputs(asked: &InferRequest) -> Result<Vec<Output>, ProtocolError> {
    let Some(outputs) = asked.outputs.as_ref().filter(|outputs| !outputs.is_empty()) else {
        return Ok(vec![Output::Score, Output::Delayed]);
    };
    let output = |wanted: &RequestedOutput| match wanted.name.as_str() {
        "score" => Ok(Output::Score),
        "delayed" => Ok(Output::Delayed),
        other => Err(ProtocolError::bad_request(format!("no output `{other}`; this model has `score` and `delayed`"))),
    };
    outputs.iter().map(output).collect()
}

/// Turns columns into flights; the first tensor says how many there are.
fn flights_of(inputs: Vec<InputTensor>, max_batch: usize) -> Result<Vec<Flight>, ProtocolError> {
    let rows = inputs.first().map_or(0, |first| first.data.len());
    if rows > max_batch {
        return Err(ProtocolError::bad_request(format!("batch should have at most {max_batch} rows, not {rows}")));
    }
    for (index, tensor) in inputs.iter().enumerate() {
        check_tensor(tensor, rows)?;
        if inputs.iter().take(index).any(|other| other.name == tensor.name) {
            return Err(ProtocolError::bad_request(format!("input `{}` is given twice", tensor.name)));
        }
    }
    let mut faults = Faults::new();
    let mut flights = Vec::with_capacity(rows);
    for row in 0..rows {
        let flight = faults.within(row, |faults| {
            let mut draft = FlightDraft::new();
            for tensor in &inputs {
                let value = tensor.data.get(row).map_or(Scalar::Null, scalar);
                if !draft.set(&tensor.name, &absent_as_null(&tensor.name, value), faults) {
                    let value = tensor.data.get(row).map_or(Scalar::Null, scalar);
                    draft.set_context(&tensor.name, &value, faults);
                }
            }
            draft.finish(faults)
        });
        flights.push(flight);
    }
    faults.into_result()?;
    Ok(flights)
}

/// Tensors of texts have no null: an empty text stands for it.
fn absent_as_null<'a>(name: &str, value: Scalar<'a>) -> Scalar<'a> {
    match value {
        Scalar::Text(text) if text.is_empty() && name == "scheduled_arrival" => Scalar::Null,
        other => other,
    }
}

fn check_tensor(tensor: &InputTensor, rows: usize) -> Result<(), ProtocolError> {
    let InputTensor { name, shape, datatype, data } = tensor;
    let known = FIELDS.contains(&name.as_str()) || NumericInput::from_name(name).is_some_and(NumericInput::is_context);
    if !known {
        let message = format!("no input `{name}`; GET /v2/models/{MODEL} lists those there are");
        return Err(ProtocolError::bad_request(message));
    }
    let permitted: &[&str] = match name.as_str() {
        "flight_number" => &["INT64", "INT32", "INT16", "UINT64", "UINT32", "UINT16"],
        name if FIELDS.contains(&name) && name != "distance_miles" => &["BYTES"],
        _ => &["FP32", "FP64", "INT64", "INT32"],
    };
    if !permitted.contains(&datatype.as_str()) {
        let message = format!("input `{name}` has datatype `{datatype}`; expected {}", permitted.join(" or "));
        return Err(ProtocolError::bad_request(message));
    }
    let sound = matches!(shape.as_slice(), [n] | [n, 1] if *n == rows as u64);
    if !sound || data.len() != rows {
        let message = format!(
            "input `{name}` has shape {shape:?} and {} values; expected shape [{rows}] as the first input has",
            data.len()
        );
        return Err(ProtocolError::bad_request(message));
    }
    Ok(())
}

fn scalar(value: &Value) -> Scalar<'_> {
    match value {
        Value::Null => Scalar::Null,
        Value::Bool(_) => Scalar::Bool,
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Scalar::Integer(whole),
            None => Scalar::Number(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Scalar::Text(text.as_str().into()),
        // A matrix of one column is sent as rows of one value by some clients.
        Value::Array(items) if items.len() == 1 && !items[0].is_array() => scalar(&items[0]),
        Value::Array(_) => Scalar::Array,
        Value::Object(_) => Scalar::Object,
    }
}
