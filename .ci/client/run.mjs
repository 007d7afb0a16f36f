// node run.mjs BINARY [--prove | --federate=FOLDER]
//
// Plays the chat, and then an encrypted one, against a fresh appliance, or with alice on one and bob on another, which talk with each other over TLS
// with cert.pem, an authority's for 127.0.0.1, and key.pem of FOLDER. With --prove it is then played again for each route that it used, with that
// route taken away, and every one of these must fail: a step that looks at nothing would be found out.
import { Appliance } from "./appliance.mjs";
import { chat } from "./chat.mjs";
import { Routes } from "./routes.mjs";
import { secrets } from "./secrets.mjs";

const stepMs = 20_000;
const stepWithoutMs = 4_000; // for a failure that shows by waiting
const atOnce = 6;
// What the SDK asks for by itself, for calls, which are no part of the chat.
const forCalls = ["GET /_matrix/client/unstable/org.matrix.msc4143/rtc/transports", "GET /_matrix/client/v3/voip/turnServer"];

const [binary, ...flags] = process.argv.slice(2);
for (const level of ["trace", "debug", "info", "warn", "error"]) console[level] = () => {}; // the SDK talks a lot

const tls = flags.find((flag) => flag.startsWith("--federate="))?.slice("--federate=".length);
const appliances = [];
try {
    for (let n = tls ? 2 : 1; n > 0; n--) appliances.push(await Appliance.start(binary, tls));
    const routes = new Routes();
    const [appliance, bobs] = appliances;
    const log = (text) => console.log(`ok   ${text}`);
    const play = { url: appliance.url, bobsURL: bobs?.url, routes, stepMs, owner: appliance.owner(), log };
    const played = (await chat(play)) + (await secrets({ ...play, routes: new Routes() }));
    console.log(`${played} steps done over ${routes.worked.size} routes`);
    if (flags.includes("--prove")) await prove(appliance, [...routes.worked].filter((name) => !forCalls.includes(name)).sort());
    for (const each of appliances) await each.stop();
} catch (err) {
    const said = appliances.map((each) => `an appliance said:\n${each.output}`).join("\n");
    console.log(`FAIL ${(err.cause ?? err).stack}\n${err.message}\n\n${said}`);
    for (const each of appliances) await each.kill();
    process.exit(1);
}
process.exit(0); // the SDK leaves timers

async function prove(appliance, names) {
    const waiting = [...names];
    const idle = [];
    const worker = async () => {
        for (let without; (without = waiting.shift()); ) {
            const routes = new Routes(without);
            await chat({ url: appliance.url, routes, stepMs: stepWithoutMs, owner: appliance.owner(), log() {} }).then(
                () => idle.push(without),
                (err) => console.log(`ok   without ${without} it fails: ${err.message.split("\n")[0]}`));
        }
    };
    await Promise.all(Array.from({ length: atOnce }, worker));
    if (idle.length > 0) throw new Error(`the chat does not need\n  ${idle.join("\n  ")}`);
}
