//! What was taken is given back.

use std::fs;

use serde_json::{Value, json};
use socialhub_tests::support::{Profile, Server};

use super::{
    Exports, fresh,
    network::{is_all_there, network},
};
use crate::auth::request_code;

#[tokio::test]
async fn a_backup_of_a_running_server_restores_to_the_same_answers() {
    let profile = Profile::chosen();
    let mut server = fresh(profile).await;
    server.restart().await;
    let network = network(&server).await;
    server.caught_up().await;
    let answers = network.answers().await;
    let exports = Exports::new();
    let folder = exports.name("backup");
    let said = server
        .succeed(&["replay", "export", &folder, "--all", "--json"])
        .await;
    let said: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let seal = said["seal"].as_str().unwrap();
    let lines = |nth: usize| said["parts"][nth]["lines"].as_u64().unwrap();
    assert_eq!(lines(0), said["position"].as_u64().unwrap());
    let others: Vec<u64> = (1..6).map(lines).collect();
    assert_eq!(others, [2, 2, 4, 4, 1], "{said}");

    let mut other = fresh(profile).await;
    let check = ["replay", "import", &folder, "--check", "--seal", seal];
    other.succeed(&check).await;
    assert!(!other.data_dir().exists(), "a check made something");
    other
        .succeed(&["replay", "import", &folder, "--seal", seal])
        .await;
    let again = other
        .succeed(&["replay", "import", &folder, "--json"])
        .await;
    let again: Value = serde_json::from_str(again.lines().next().unwrap()).unwrap();
    for nth in 0..6 {
        assert_eq!(again["parts"][nth]["new"], 0, "{again}");
    }
    if profile == Profile::Embedded {
        other.succeed(&["replay", "rebuild", "--all"]).await;
        other.verify_all().await;
        let keys = |server: &Server| server.data_dir().join("secrets/jwt");
        fs::create_dir_all(keys(&other).parent().unwrap()).unwrap();
        fs::copy(keys(&server), keys(&other)).unwrap();
    }
    other.restart().await;
    // With the old key the old tokens are good.
    let me = other
        .client()
        .with_token(&network.ada.id, "", &network.ada.token);
    me.get("/auth/verify-user").await.expect_status(200);
    is_all_there(&other, &network, &answers).await;
    me.get("/auth/me").await.expect_status(200);
    let import = ["replay", "import", &folder];
    let running = other.fail(&import).await;
    let wanted = match profile {
        Profile::Embedded => "stop that one first",
        Profile::Distributed => "stop every process on that log first",
    };
    assert!(running.contains(wanted), "{running}");
    assert!(other.stop().await);
    other.is_alone().await;
    // What came since would be lost.
    let refused = other.fail(&import).await;
    assert!(refused.contains("must be empty"), "{refused}");
}

#[tokio::test]
async fn an_old_token_stays_refused_after_a_restore() {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let person = server.client().sign_up("resets").await;
    let (otp, email) = request_code(&server, &server.client(), &person).await;
    let reset = json!({ "email": email, "otp": otp, "newPassword": "another one 42" });
    let client = server.client();
    client
        .post("/auth/reset-password", reset)
        .await
        .expect_status(200);
    let exports = Exports::new();
    let folder = exports.name("backup");
    server
        .succeed(&["replay", "export", &folder, "--all"])
        .await;
    let mut other = fresh(Profile::Embedded).await;
    other.succeed(&["replay", "import", &folder]).await;
    fs::create_dir_all(other.data_dir().join("secrets")).unwrap();
    let key = "secrets/jwt";
    fs::copy(server.data_dir().join(key), other.data_dir().join(key)).unwrap();
    other.restart().await;
    let old = other.client().with_token(&person.id, "", &person.token);
    assert_eq!(old.get("/auth/me").await.status, 401);
    let login = json!({ "identifier": person.username, "password": "another one 42" });
    other
        .client()
        .post("/auth/login", login)
        .await
        .expect_status(200);
}
