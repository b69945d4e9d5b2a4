//! The data stage's actor: handlers only.

use actix::{Handler, Message, ResponseFuture};

use super::messages::{BuildDataset, IngestFlights};
use super::stage::DataStage;
use crate::supervision::StageActor;

/// The stage's actor.
pub type DataActor = StageActor<DataStage>;

impl Handler<IngestFlights> for DataActor {
    type Result = ResponseFuture<<IngestFlights as Message>::Result>;

    fn handle(&mut self, message: IngestFlights, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("IngestFlights", async move { stage.ingest(message).await })
    }
}

impl Handler<BuildDataset> for DataActor {
    type Result = ResponseFuture<<BuildDataset as Message>::Result>;

    fn handle(&mut self, message: BuildDataset, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("BuildDataset", async move { stage.build(message).await })
    }
}
