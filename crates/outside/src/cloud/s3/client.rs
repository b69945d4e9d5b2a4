//! The SDK's client as the settings want it. It tries nothing twice: the store
//! does, see `attempts`.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::StalledStreamProtectionConfig;

use super::settings::S3Settings;
use crate::cloud::aws::AwsAccess;
use delayd_core::error::PortError;

/// Makes the client. Nothing is asked of S3; the region and the whereabouts of the
/// credentials may be asked of the environment.
pub(super) async fn connect(settings: &S3Settings, action: &str) -> Result<Client, PortError> {
    let access = AwsAccess {
        section: "object_store.s3",
        region: &settings.region,
        profile: &settings.profile,
        access_key_id: &settings.access_key_id,
        secret_access_key: &settings.secret_access_key,
        session_token: &settings.session_token,
        http: &settings.http,
        // Deadlines are the store's own, because only it knows what a request moves.
        answer_within: None,
    };
    let shared = access.sdk_config(action).await?;
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(settings.path_style)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    // Amazon's own where none is named, whatever the environment says: the settings tell where data go.
    config.set_endpoint_url(Some(settings.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()));
    Ok(Client::from_conf(config.build()))
}
