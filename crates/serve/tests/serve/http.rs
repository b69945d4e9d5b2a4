//! What a caller and the daemon see of a replica.

use crate::{Running, answer, flights};
use delayd_model::admin::{PredictionPage, ReplicaPhase, ReplicaReport};
use delayd_model::testing::{tiny_bundle, tiny_rows};
use delayd_model::{PredictScratch, Predictor};
use serde_json::{Value, json};

#[actix_web::test]
async fn the_service_scores_as_the_predictor_does() {
    let replica = Running::with(&[]).await;
    let (status, body) = replica.post("/predict", &json!(flights(7, 40))).await;
    assert_eq!(status, 200);
    assert_eq!(body["model_version"], "model_v1");
    let bundle = tiny_bundle(1);
    assert_eq!(body["bundle"], bundle.digest().unwrap());
    let predictor = Predictor::from_bundle(&bundle).unwrap();
    let mut scratch = PredictScratch::default();
    for (row, answer) in tiny_rows(7, 40).iter().zip(body["predictions"].as_array().unwrap()) {
        let expected = predictor.predict(row, &mut scratch);
        assert!((answer["score"].as_f64().unwrap() - f64::from(expected.score)).abs() < 1e-6);
        assert_eq!(answer["delayed"], expected.delayed);
        assert_eq!(answer["warnings"], json!([]));
    }
}

#[actix_web::test]
async fn a_strange_flight_is_answered_with_warnings() {
    let replica = Running::with(&[]).await;
    let flight = json!({"carrier": "ZZ", "flight_number": 1, "origin": "JFK", "dest": "QQQ",
        "scheduled_departure": "2013-03-05T10:00:00-05:00"});
    let (status, body) = replica.post("/predict", &flight).await;
    assert_eq!(status, 200);
    let warnings = body["predictions"][0]["warnings"].as_array().unwrap();
    let kinds: Vec<&str> = warnings.iter().map(|warning| warning["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["unknown_carrier", "unknown_dest", "unknown_route", "unknown_airport", "missing_context"]);
    let report: ReplicaReport = serde_json::from_value(replica.get("/admin/v1/sketch").await.1).unwrap();
    let unknown = |name: &str| report.unknown_categories[name];
    assert_eq!([unknown("carrier"), unknown("origin"), unknown("dest"), unknown("route")], [1, 0, 1, 1]);
}

#[actix_web::test]
async fn bad_requests_are_told_apart_and_told_where() {
    let replica = Running::with(&["--max-body-bytes", "4000", "--max-batch", "2"]).await;
    let url = format!("{}/predict", replica.public);
    let send = |body: &str, content: &str| {
        let request = replica.client.post(&url).header("content-type", content.to_owned()).body(body.to_owned());
        answer(request)
    };
    let (status, body) = send("{\n  \"carrier\": }", "application/json").await;
    assert_eq!((status, &body["detail"][0]["ctx"]), (400, &json!({ "line": 2, "column": 14 })));
    let (status, body) = send(r#"[{"carrier":"B6"},{}]"#, "application/json; charset=utf-8").await;
    assert_eq!((status, body["detail"].as_array().unwrap().len()), (422, 9));
    assert_eq!(
        body["detail"][0],
        json!({"loc": ["body", 0, "flight_number"], "msg": "Field required", "type": "missing"})
    );
    assert_eq!(send("{}", "text/plain").await.0, 415);
    assert_eq!(send(&" ".repeat(5000), "application/json").await.0, 413);
    assert_eq!(replica.post("/predict", &json!([{}, {}, {}])).await.0, 422);
    assert_eq!(replica.get("/nowhere").await, (404, json!({ "detail": "Not Found" })));
    let response = replica.client.get(&url).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["allow"].to_str().unwrap()), (405, "POST"));
}

#[actix_web::test]
async fn a_body_without_a_length_is_limited_too() {
    let replica = Running::with(&["--max-body-bytes", "4000"]).await;
    let mut stream = tokio::net::TcpStream::connect(replica.public.trim_start_matches("http://")).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let head =
        "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(format!("1770\r\n{}\r\n0\r\n\r\n", " ".repeat(6000)).as_bytes()).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[actix_web::test]
async fn administrative_routes_are_on_the_administrative_address_only() {
    let replica = Running::with(&[]).await;
    for path in ["/admin/v1/sketch", "/admin/v1/predictions"] {
        assert_eq!(replica.get(path).await.0, 200);
        assert_eq!(answer(replica.client.get(format!("{}{path}", replica.public))).await.0, 404);
    }
    let predict = replica.client.post(format!("{}/predict", replica.admin)).json(&flights(1, 1));
    assert_eq!(answer(predict).await.0, 200);
    let (status, body) = answer(replica.client.post(format!("{}/admin/v1/collected", replica.admin))).await;
    assert_eq!(status, 409, "{body}");
}

#[actix_web::test]
async fn every_row_is_counted_exactly_once_over_all_workers() {
    let replica = Running::with(&[]).await;
    let url = format!("{}/predict", replica.public);
    let callers = (0..8_u64).map(|caller| {
        let url = url.clone();
        // A client of its own: connections go to different workers.
        let client = crate::client();
        actix_web::rt::spawn(async move {
            for n in 0..25 {
                let body = flights(100 * caller + n, 1 + (n as usize % 70));
                assert_eq!(answer(client.post(&url).json(&body)).await.0, 200);
                assert_eq!(answer(client.post(&url).json(&json!({}))).await.0, 422);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let rows = 8 * (1..=25).sum::<u64>();
    let report: ReplicaReport = serde_json::from_value(replica.get("/admin/v1/sketch").await.1).unwrap();
    assert_eq!((report.sketch.rows, report.last_sequence), (rows, rows));
    assert_eq!((report.requests.ok, report.requests.client_errors, report.requests.server_errors), (200, 200, 0));
    assert_eq!(report.latency.count(), 400);
    assert_eq!((report.phase, report.in_flight), (ReplicaPhase::Ready, 0));
    for counts in report.sketch.numerics.iter().chain(&report.sketch.categories).chain([&report.sketch.scores]) {
        assert_eq!(counts.iter().sum::<u64>(), rows);
    }
    let metrics = replica.text("/metrics").await;
    assert!(metrics.contains(&format!("\ndelayd_serve_prediction_rows_total {rows}\n")), "{metrics}");
    for status in ["2xx", "4xx"] {
        let line = format!("delayd_serve_requests_total{{route=\"/predict\",method=\"POST\",status=\"{status}\"}} 200");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[actix_web::test]
async fn a_probe_is_answered_and_leaves_no_trace_in_what_is_watched() {
    let replica = Running::with(&[]).await;
    let request = replica.client.post(format!("{}/predict", replica.public)).header("x-delayd-probe", "1");
    assert_eq!(answer(request.json(&flights(1, 50))).await.0, 200);
    let report: ReplicaReport = serde_json::from_value(replica.get("/admin/v1/sketch").await.1).unwrap();
    assert_eq!((report.sketch.rows, report.last_sequence, report.requests.total()), (0, 0, 0));
    assert!(replica.text("/metrics").await.contains("delayd_serve_probe_rows_total 50"));
}

#[actix_web::test]
async fn predictions_are_paged_and_what_was_overwritten_is_told() {
    let replica = Running::with(&["--kept-predictions", "30"]).await;
    let sent = flights(3, 50);
    assert_eq!(replica.post("/predict", &json!({ "flights": sent })).await.0, 200);
    let page = async |query: &str| -> PredictionPage {
        serde_json::from_value(replica.get(&format!("/admin/v1/predictions?{query}")).await.1).unwrap()
    };
    let first = page("after=10&limit=20").await;
    assert_eq!((first.lost, first.predictions.len(), first.next_after, first.more), (10, 20, 40, true));
    assert_eq!(first.predictions[0].seq, 21);
    assert_eq!(first.predictions[0].carrier, sent[20]["carrier"].as_str().unwrap());
    assert_eq!(u64::from(first.predictions[0].flight_number), sent[20]["flight_number"].as_u64().unwrap());
    let second = page("after=40").await;
    assert_eq!((second.lost, second.predictions.len(), second.more), (0, 10, false));
    assert_eq!(replica.get("/admin/v1/predictions?after=x").await.0, 422);
}

#[actix_web::test]
async fn metrics_have_the_form_prometheus_reads() {
    let replica = Running::with(&["--model-version", "a\"b"]).await;
    replica.post("/predict", &json!(flights(1, 3))).await;
    let metrics = replica.text("/metrics").await;
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(series.starts_with("delayd_serve_") || series.starts_with("process_"), "{line}");
    }
    for name in ["delayd_serve_request_duration_seconds", "delayd_serve_prediction_score"] {
        assert!(metrics.contains(&format!("# TYPE {name} histogram")));
    }
    assert!(metrics.contains("model_version=\"a\\\"b\""), "{metrics}");
    assert!(metrics.contains("process_resident_memory_bytes "));
}

#[actix_web::test]
async fn every_route_that_is_documented_exists_and_the_page_needs_nothing_from_outside() {
    let replica = Running::with(&[]).await;
    let (status, document) = replica.get("/openapi.json").await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let mut count = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{model}", "delaynet").replace("{version}", "model_v1");
            let method = method.to_uppercase().parse().unwrap();
            let (status, body) = answer(replica.client.request(method, format!("{}{path}", replica.admin))).await;
            assert!(status != 404 && status != 405, "{path}: {status} {body}");
            count += 1;
        }
    }
    assert_eq!(count, 19);
    let context = &document["components"]["schemas"]["Context"]["properties"];
    assert!(context["temperature_c"]["description"].as_str().unwrap().contains("°C"));
    for reference in references(&document) {
        let pointer = reference.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{reference} points nowhere");
    }
    let page = replica.text("/docs").await;
    assert!(page.contains("openapi.json") && !page.contains("http://") && !page.contains("https://"));
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, field)| match field {
                Value::String(target) if name == "$ref" => vec![target.clone()],
                other => references(other),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => vec![],
    }
}

#[actix_web::test]
async fn the_documents_examples_are_accepted() {
    let replica = Running::with(&[]).await;
    let document = replica.get("/openapi.json").await.1;
    let content = |path: &str| document["paths"][path]["post"]["requestBody"]["content"]["application/json"].clone();
    for (name, example) in content("/predict")["examples"].as_object().unwrap() {
        assert_eq!(replica.post("/predict", &example["value"]).await.0, 200, "{name}");
    }
    let (status, body) =
        replica.post("/v2/models/delaynet/infer", &content("/v2/models/{model}/infer")["example"]).await;
    assert_eq!(status, 200, "{body}");
}

#[actix_web::test]
async fn readiness_and_names_are_told_in_both_dialects() {
    let replica = Running::with(&[]).await;
    for path in ["/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/v2/models/delaynet/ready"] {
        assert_eq!(replica.get(path).await.0, 200, "{path}");
    }
    assert_eq!(replica.get("/v2/models/delaynet/versions/model_v1/ready").await.0, 200);
    assert_eq!(replica.get("/v2/models/delaynet/versions/model_v2/ready").await.0, 404);
    let (status, body) = replica.get("/v2/models/resnet").await;
    assert_eq!((status, body["error"].as_str().unwrap().contains("delaynet")), (404, true));
    assert_eq!(replica.get("/").await.1["replica"], "replica-1");
    let (_, metadata) = replica.get("/v2/models/delaynet").await;
    assert_eq!(metadata["inputs"][0], json!({"name": "carrier", "datatype": "BYTES", "shape": [-1]}));
}

fn tensor(name: &str, datatype: &str, data: Value) -> Value {
    let length = data.as_array().unwrap().len();
    json!({ "name": name, "datatype": datatype, "shape": [length], "data": data })
}

fn columns() -> Vec<Value> {
    vec![
        tensor("carrier", "BYTES", json!(["B6", "AA"])),
        tensor("flight_number", "INT64", json!([23, 1])),
        tensor("origin", "BYTES", json!(["JFK", "LGA"])),
        tensor("dest", "BYTES", json!(["LAX", "ORD"])),
        tensor("scheduled_departure", "BYTES", json!(["2013-03-05T15:00:00Z", "2013-03-05T16:00:00Z"])),
        tensor("scheduled_arrival", "BYTES", json!(["2013-03-05T21:00:00Z", ""])),
        tensor("temperature_c", "FP32", json!([5.5, null])),
    ]
}

#[actix_web::test]
async fn named_tensors_score_as_flights_do() {
    let replica = Running::with(&[]).await;
    let (status, body) = replica.post("/v2/models/delaynet/infer", &json!({"id": "a7", "inputs": columns()})).await;
    assert_eq!(status, 200, "{body}");
    let flights = json!([
        {"carrier": "B6", "flight_number": 23, "origin": "JFK", "dest": "LAX", "context": {"temperature_c": 5.5},
         "scheduled_departure": "2013-03-05T15:00:00Z", "scheduled_arrival": "2013-03-05T21:00:00Z"},
        {"carrier": "AA", "flight_number": 1, "origin": "LGA", "dest": "ORD", "scheduled_departure": "2013-03-05T16:00:00Z"},
    ]);
    let same = replica.post("/predict", &flights).await.1;
    let column =
        |name: &str| same["predictions"].as_array().unwrap().iter().map(|p| p[name].clone()).collect::<Vec<_>>();
    // FP32 either way; the two routes print a different number of digits.
    let fp32 = |values: &serde_json::Value| -> Vec<f32> {
        values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
    };
    assert_eq!(fp32(&body["outputs"][0]["data"]), fp32(&json!(column("score"))));
    assert_eq!(body["outputs"][0]["datatype"], "FP32");
    assert_eq!(body["outputs"][1], tensor("delayed", "BOOL", json!(column("delayed"))));
    assert_eq!((&body["id"], &body["model_version"]), (&json!("a7"), &json!("model_v1")));

    let only = json!({"inputs": columns(), "outputs": [{"name": "delayed"}]});
    let (_, body) = replica.post("/v2/models/delaynet/versions/model_v1/infer", &only).await;
    assert_eq!(body["outputs"].as_array().unwrap().len(), 1);
}

#[actix_web::test]
async fn tensors_that_cannot_be_used_are_told_in_the_protocols_shape() {
    let replica = Running::with(&["--max-batch", "2"]).await;
    let refused = async |change: &dyn Fn(&mut Vec<Value>)| {
        let mut inputs = columns();
        change(&mut inputs);
        let (status, body) = replica.post("/v2/models/delaynet/infer", &json!({ "inputs": inputs })).await;
        assert_eq!(status, 400, "{body}");
        body["error"].as_str().unwrap().to_owned()
    };
    let has = |message: String, words: &str| assert!(message.contains(words), "{message}");
    has(refused(&|inputs| inputs[1]["datatype"] = "FP32".into()).await, "expected INT64");
    has(refused(&|inputs| inputs[2]["shape"] = json!([3])).await, "input `origin` has shape [3]");
    has(refused(&|inputs| inputs[0]["data"] = json!(["b6", "AA"])).await, "row 0, carrier: Input should be");
    has(refused(&|inputs| drop(inputs.remove(3))).await, "row 1, dest: Field required");
    has(refused(&|inputs| inputs.push(tensor("colour", "BYTES", json!(["a", "b"])))).await, "no input `colour`");
    has(refused(&|inputs| inputs.push(inputs[0].clone())).await, "given twice");
    has(refused(&|inputs| inputs[0]["data"] = json!(["B6", "AA", "UA"])).await, "at most 2 rows");
    let (status, body) = replica.post("/v2/models/delaynet/infer", &json!({ "inputs": 5 })).await;
    assert_eq!((status, body["error"].is_string()), (400, true));
}
