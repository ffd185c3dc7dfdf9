//! The clock of the benchmarks: small enough that its own cost stays out of what it measures.
//!
//! A worker reads one order per line from standard input and answers with one line on standard output: times in
//! nanoseconds, separated by blanks. Fields of an order are separated by tabs. `bench/run` alternates between workers,
//! so that product and peers meet the same weather.
//!
//! - `client spawn`: `fork|posix_spawn COUNT THREADS GAP_MS PROGRAM [ARGUMENT…]`; one time per process, start to reaped
//! - `client http ADDRESS`:
//!   - `request COUNT METHOD PATH BODY`; one time per request, over one connection
//!   - `life COUNT GAP_MS CREATE_BODY EXEC_BODY`; `create:exec` per sandbox, which is deleted afterwards, untimed
//!   - `create COUNT CREATE_BODY`; `id:time` per sandbox
//!   - `load CONNECTIONS SECONDS METHOD PATH BODY`; one time per request, all connections kept busy
//! - `client cold ADDRESS CREATE_BODY EXEC_BODY PROGRAM [ARGUMENT…]`: starts a server once; `pid ready created executed`

mod http;
mod load;
mod spawn;

use std::{
    error::Error,
    io::{self, BufRead, Write},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How long a server may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long to wait between two looks at a server that starts.
const LOOK_EVERY: Duration = Duration::from_micros(200);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["spawn"] => serve(spawn_order),
        ["http", address] => http_worker(address),
        ["cold", address, create, exec, program @ ..] if !program.is_empty() => {
            cold(address, create, exec, program)
        }
        _ => Err("usage: client spawn | http ADDRESS | cold ADDRESS CREATE EXEC PROGRAM…".into()),
    };
    if let Err(error) = outcome {
        eprintln!("bench client: {error}");
        std::process::exit(1);
    }
}

/// Answers orders until standard input ends.
fn serve(mut answer: impl FnMut(&[&str]) -> Outcome<String>) -> Outcome<()> {
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let fields: Vec<&str> = line.split('\t').collect();
        writeln!(output, "{}", answer(&fields)?)?;
        output.flush()?;
    }
    Ok(())
}

fn words(times: &[Duration]) -> String {
    times.iter().map(|time| time.as_nanos().to_string()).collect::<Vec<_>>().join(" ")
}

fn spawn_order(fields: &[&str]) -> Outcome<String> {
    let [how, count, threads, gap, program @ ..] = fields else {
        return Err("an order is incomplete".into());
    };
    let how = spawn::How::parse(how)?;
    let gap = Duration::from_millis(gap.parse()?);
    Ok(words(&spawn::many(how, count.parse()?, threads.parse()?, gap, program)?))
}

fn http_worker(address: &str) -> Outcome<()> {
    let address: SocketAddr = address.parse()?;
    let mut connection = http::Connection::open(address)?;
    serve(|fields| match fields {
        ["request", count, method, path, body] => {
            let request = http::request(method, path, body);
            let times: Result<Vec<_>, _> = (0..count.parse::<usize>()?)
                .map(|_| timed(|| connection.ask(&request)).map(|(time, _)| time))
                .collect();
            Ok(words(&times?))
        }
        ["life", count, gap, create, exec] => {
            let gap = Duration::from_millis(gap.parse()?);
            let lives: Result<Vec<_>, _> =
                (0..count.parse::<usize>()?).map(|_| life(&mut connection, gap, create, exec)).collect();
            Ok(lives?.join(" "))
        }
        ["create", count, body] => {
            let request = http::request("POST", "/v1/sandboxes", body);
            let made: Result<Vec<_>, _> = (0..count.parse::<usize>()?)
                .map(|_| {
                    let (time, answer) = timed(|| connection.ask(&request))?;
                    Ok::<_, Box<dyn Error>>(format!("{}:{}", http::id(&answer)?, time.as_nanos()))
                })
                .collect();
            Ok(made?.join(" "))
        }
        ["load", connections, seconds, method, path, body] => {
            let request = http::request(method, path, body);
            let length = Duration::from_secs_f64(seconds.parse()?);
            Ok(words(&load::keep_busy(address, connections.parse()?, length, &request)?))
        }
        _ => Err("an unknown order".into()),
    })
}

fn timed<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(Duration, T)> {
    let begun = Instant::now();
    let result = work()?;
    Ok((begun.elapsed(), result))
}

/// One sandbox from its creation to its removal, and then a pause.
fn life(connection: &mut http::Connection, gap: Duration, create: &str, exec: &str) -> Outcome<String> {
    let (created, answer) = timed(|| connection.ask(&http::request("POST", "/v1/sandboxes", create)))?;
    let id = http::id(&answer)?;
    let (executed, answer) = timed(|| connection.ask(&http::exec(&id, exec)))?;
    http::succeeded(&answer)?;
    connection.ask(&http::request("DELETE", &format!("/v1/sandboxes/{id}"), ""))?;
    thread::sleep(gap);
    Ok(format!("{}:{}", created.as_nanos(), executed.as_nanos()))
}

/// Starts a server and uses it at once; each time is since the start. The server goes on.
fn cold(address: &str, create: &str, exec: &str, program: &[&str]) -> Outcome<()> {
    let address: SocketAddr = address.parse()?;
    let ready = http::request("GET", "/health/ready", "");
    let begun = Instant::now();
    let pid = spawn::start(program)?;
    let mut connection = loop {
        match http::Connection::open(address)
            .and_then(|mut connection| connection.ask(&ready).map(|_| connection))
        {
            Ok(connection) => break connection,
            Err(error) if begun.elapsed() > START_LIMIT => return Err(error),
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    };
    let is_ready = begun.elapsed();
    let id = http::id(&connection.ask(&http::request("POST", "/v1/sandboxes", create))?)?;
    let is_created = begun.elapsed();
    http::succeeded(&connection.ask(&http::exec(&id, exec))?)?;
    let has_executed = begun.elapsed();
    println!("{pid} {}", words(&[is_ready, is_created, has_executed]));
    Ok(())
}
