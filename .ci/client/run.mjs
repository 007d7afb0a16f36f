// node run.mjs BINARY [--prove]
//
// Plays the chat against a fresh appliance. With --prove it is then played again for each route that it used, with that
// route taken away, and every one of these must fail: a step that looks at nothing would be found out.
import { Appliance } from "./appliance.mjs";
import { chat } from "./chat.mjs";
import { Routes } from "./routes.mjs";

const stepMs = 20_000;
const stepWithoutMs = 4_000; // for a failure that shows by waiting
const atOnce = 6;

const [binary, ...flags] = process.argv.slice(2);
for (const level of ["trace", "debug", "info", "warn", "error"]) console[level] = () => {}; // the SDK talks a lot

const appliance = await Appliance.start(binary);
try {
    const routes = new Routes();
    const played = await chat({ url: appliance.url, routes, stepMs, owner: appliance.owner(), log: (text) => console.log(`ok   ${text}`) });
    console.log(`${played} steps done over ${routes.worked.size} routes`);
    if (flags.includes("--prove")) await prove([...routes.worked].sort());
    await appliance.stop();
} catch (err) {
    console.log(`FAIL ${(err.cause ?? err).stack}\n${err.message}\n\nthe appliance said:\n${appliance.output}`);
    await appliance.kill();
    process.exit(1);
}
process.exit(0); // the SDK leaves timers

async function prove(names) {
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
