//! Uploads and what is served of them.

use std::path::Path;

use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::json;
use socialhub_tests::support::{
    Answer, Client, Profile, Server, client::PASSWORD, eventually, fake_cloudinary::FakeCloudinary,
    s3_server::S3Server,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::erasure::erase;

/// The smallest PNG, padded to a size.
pub fn png(size: usize) -> Vec<u8> {
    let mut bytes =
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89".to_vec();
    bytes.resize(size.max(bytes.len()), 7);
    bytes
}

fn file(name: &str, bytes: Vec<u8>) -> Part {
    Part::bytes(bytes).file_name(name.to_owned())
}

async fn upload(client: &Client, visibility: &str, files: Vec<Part>) -> Answer {
    let form = Form::new()
        .text("content", "with files")
        .text("visibility", visibility.to_owned());
    let form = files
        .into_iter()
        .fold(form, |form, part| form.part("files", part));
    client.post_form("/posts/", form).await
}

/// Every file below a folder.
fn files_below(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| {
            if entry.path().is_dir() {
                files_below(&entry.path())
            } else {
                1
            }
        })
        .sum()
}

async fn nothing_left(server: &Server, what: &str) {
    let folder = server.data_dir().join("media");
    eventually(what, || async { (files_below(&folder) == 0).then_some(()) }).await;
}

#[tokio::test]
async fn what_was_uploaded_is_served_with_its_type_and_in_ranges() {
    let server = Server::start().await;
    served_with_its_type_and_in_ranges(&server).await;
    nothing_left(&server, "the files are gone with their post").await;
}

/// A server that keeps its files elsewhere.
async fn with_files_at(url: String) -> Server {
    let mut environment = Profile::chosen().environment().await;
    environment.push(("MEDIA_URL".to_owned(), url));
    Server::start_in(&["--rate-limits", "off"], environment).await
}

/// What is uploaded through the front door, served by it, and gone with its post or its author.
async fn kept_elsewhere(server: &Server, stored: impl Fn() -> usize) {
    served_with_its_type_and_in_ranges(server).await;
    let gone = async |what| eventually(what, || async { (stored() == 0).then_some(()) }).await;
    gone("the files are gone with their post").await;
    let me = server.client().sign_up("forgotten").await;
    let files = vec![file("a.png", png(100)), file("b.png", png(6_000_000))];
    upload(&me, "followers", files).await.expect_status(201);
    assert!(stored() >= 2, "{}", stored());
    erase(&me, PASSWORD).await.expect_status(204);
    gone("the files are gone with their author").await;
    assert_eq!(files_below(&server.data_dir().join("media")), 0);
}

#[tokio::test]
async fn files_are_kept_and_forgotten_on_an_object_store() {
    let files = S3Server::start().await;
    let server = with_files_at(files.url("files")).await;
    kept_elsewhere(&server, || files.stored()).await;
}

#[tokio::test]
async fn files_are_kept_and_forgotten_at_cloudinary() {
    let files = FakeCloudinary::start().await;
    let server = with_files_at(files.url()).await;
    kept_elsewhere(&server, || files.stored()).await;
}

async fn served_with_its_type_and_in_ranges(server: &Server) {
    let me = server.client().sign_up("media").await;
    let (small, large) = (png(100), png(3_000_000));
    let answer = upload(
        &me,
        "public",
        vec![file("a.png", small.clone()), file("b.txt", large.clone())],
    )
    .await;
    let answer = answer.expect_status(201);
    let media = answer.list("/post/media");
    assert_eq!(media.len(), 2);
    assert_eq!(
        (&media[0]["contentType"], &media[1]["size"]),
        (&json!("image/png"), &json!(3_000_000))
    );
    assert_eq!(
        answer.list("/post/mediaUrls"),
        &vec![media[0]["url"].clone(), media[1]["url"].clone()]
    );

    let anonymous = server.client();
    let url = media[1]["url"].as_str().unwrap();
    let whole = anonymous.get(url).await.expect_status(200);
    assert_eq!(whole.bytes, large);
    assert_eq!(
        (
            whole.header("content-type"),
            whole.header("x-content-type-options")
        ),
        ("image/png", "nosniff")
    );
    assert!(whole.header("cache-control").contains("public"));
    let part = anonymous
        .send(
            anonymous
                .request(Method::GET, url)
                .header("range", "bytes=10-19"),
        )
        .await
        .expect_status(206);
    assert_eq!(
        (part.bytes.as_slice(), part.header("content-range")),
        (&large[10..20], "bytes 10-19/3000000")
    );
    let tail = anonymous
        .send(
            anonymous
                .request(Method::GET, url)
                .header("range", "bytes=-5"),
        )
        .await
        .expect_status(206);
    assert_eq!(tail.bytes, large[large.len() - 5..]);
    anonymous
        .send(
            anonymous
                .request(Method::GET, url)
                .header("range", "bytes=9999999-"),
        )
        .await
        .expect_status(416);

    let post = answer.text("/post/id");
    me.delete(&format!("/posts/{post}"))
        .await
        .expect_status(204);
    eventually("the file is gone with its post", || async {
        (anonymous.get(url).await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn files_of_posts_that_are_not_public_need_their_readers_token() {
    let server = Server::start().await;
    let (me, other) = (
        server.client().sign_up("mine").await,
        server.client().sign_up("notmine").await,
    );
    let answer = upload(&me, "private", vec![file("a.png", png(200))])
        .await
        .expect_status(201);
    let url = answer.text("/post/media/0/url");
    let served = me.get(url).await.expect_status(200);
    assert!(served.header("cache-control").contains("private"));
    let (plain, signature) = url.split_once('?').unwrap_or((url, ""));
    assert!([401, 404].contains(&server.client().get(plain).await.status));
    assert_eq!(other.get(plain).await.status, 404);
    if !signature.is_empty() {
        // An address made for a reader opens without a token (in an `img` element, say), but only as it is.
        server.client().get(url).await.expect_status(200);
        let last = if url.ends_with('A') { "B" } else { "A" };
        let forged = format!("{}{last}", &url[..url.len() - 1]);
        assert!([400, 401, 404].contains(&server.client().get(&forged).await.status));
    }
}

#[tokio::test]
async fn a_refused_upload_leaves_nothing_behind() {
    let server = Server::start().await;
    let me = server.client().sign_up("refused").await;
    let eleven = (0..11)
        .map(|index| file(&format!("{index}.png"), png(100)))
        .collect();
    upload(&me, "public", eleven).await.expect_status(413);
    nothing_left(&server, "eleven files").await;
    upload(
        &me,
        "public",
        vec![file("big.png", png(10 * 1024 * 1024 + 1))],
    )
    .await
    .expect_status(413);
    nothing_left(&server, "a file too big").await;
    let elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0".repeat(20);
    upload(
        &me,
        "public",
        vec![file("ok.png", png(100)), file("holiday.jpg", elf)],
    )
    .await
    .expect_status(415);
    nothing_left(&server, "an executable named .jpg").await;
    upload(
        &me,
        "public",
        vec![file("x.svg", b"<svg onload='alert(1)'/>".to_vec())],
    )
    .await
    .expect_status(415);
    upload(&me, "everyone", vec![file("a.png", png(100))])
        .await
        .expect_fields(&["visibility"]);
    nothing_left(&server, "a bad field beside a good file").await;
    let list = me
        .get(&format!("/posts/user/{}", me.id))
        .await
        .expect_status(200);
    assert!(list.list("/posts").is_empty());
}

#[tokio::test]
async fn names_of_files_are_never_paths() {
    let server = Server::start().await;
    let me = server.client().sign_up("traversal").await;
    let answer = upload(&me, "public", vec![file("../../../evil.png", png(100))])
        .await
        .expect_status(201);
    assert!(answer.text("/post/media/0/url").starts_with("/media/"));
    assert!(!server.data_dir().join("../evil.png").exists());
    for path in [
        "/media/../events.db",
        "/media/..%2f..%2fevents.db",
        "/media/%2e%2e/events.db",
        "/media/x/0",
        "/media//etc/passwd",
    ] {
        let status = server.client().get(path).await.status;
        assert!([400, 401, 404].contains(&status), "{path}: {status}");
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing_behind() {
    let server = Server::start().await;
    let me = server.client().sign_up("broken").await;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", server.port()))
        .await
        .unwrap();
    let head = format!(
        "POST /posts/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"a.png\"\r\n\r\n",
        me.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&png(500_000)).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    drop(stream);
    nothing_left(&server, "an upload that broke off").await;
    let list = me
        .get(&format!("/posts/user/{}", me.id))
        .await
        .expect_status(200);
    assert!(list.list("/posts").is_empty());
}
