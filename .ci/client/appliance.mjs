// The appliance as a process: built from the tree by .ci/run, started on a free port with an empty folder.
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const readyWithinMs = 15_000;
const endsWithinMs = 5_000; // what the appliance promises

export class Appliance {
    // start runs the binary and returns when it answers. With a folder of cert.pem, an authority's for 127.0.0.1, and
    // key.pem it talks with others of the same folder.
    static async start(binary, tls) {
        const folder = await mkdtemp(join(tmpdir(), "real-client-"));
        const address = `127.0.0.1:${await freePort()}`;
        const child = spawn(binary, [
            "--data-dir", join(folder, "data"),
            "--client-addr", address,
            "--registration", "open",
            "--no-rate-limits",
            ...(tls ? await federating(tls) : []),
        ], { stdio: ["ignore", "pipe", "pipe"], cwd: folder });
        const appliance = new Appliance(child, folder, `http://${address}`);
        try {
            await appliance.#ready();
        } catch (err) {
            await appliance.kill();
            throw err;
        }
        return appliance;
    }

    constructor(child, folder, url) {
        this.folder = folder;
        this.url = url;
        this.output = "";
        this.child = child;
        this.ended = new Promise((resolve) => child.on("exit", (code, signal) => resolve({ code, signal })));
        this.ended.then((end) => (this.end = end));
        child.on("error", (err) => (this.output += `${err}\n`));
        child.stdout.on("data", (text) => (this.output += text));
        child.stderr.on("data", (text) => (this.output += text));
    }

    async #ready() {
        for (const until = Date.now() + readyWithinMs; Date.now() < until; await sleep(20)) {
            if (this.end) throw new Error(`the appliance ended with status ${this.end.code}:\n${this.output}`);
            const versions = await fetch(`${this.url}/_matrix/client/versions`).catch(() => undefined);
            if (versions?.ok && this.output.includes("Homeserver URL")) return; // the last that it prints
        }
        throw new Error(`the appliance is not ready after ${readyWithinMs} ms:\n${this.output}`);
    }

    // owner returns what the first start printed of the owner's account.
    owner() {
        const user = this.output.match(/@[a-z0-9._=/+-]+:\S+/)?.[0];
        const password = this.output.match(/password:?\s+(\S+)/i)?.[1];
        if (!user || !password) throw new Error(`the first start did not print the owner's account:\n${this.output}`);
        return { user, password };
    }

    // stop ends it as a service manager does, and fails unless it ends well.
    async stop() {
        this.child.kill("SIGTERM");
        const end = await Promise.race([this.ended, sleep(endsWithinMs, "late", { ref: false })]);
        await this.kill();
        if (end === "late") throw new Error(`the appliance runs on ${endsWithinMs} ms after SIGTERM:\n${this.output}`);
        if (end.code !== 0) throw new Error(`the appliance ended with ${JSON.stringify(end)}:\n${this.output}`);
    }

    async kill() {
        this.child.kill("SIGKILL");
        await rm(this.folder, { recursive: true, force: true });
    }
}

async function federating(tls) {
    const address = `127.0.0.1:${await freePort()}`;
    const [cert, key] = [join(tls, "cert.pem"), join(tls, "key.pem")];
    return [
        "--server-name", address, "--federation-addr", address, "--allow-private-networks",
        "--tls-cert", cert, "--tls-key", key, "--ca-cert", cert,
    ];
}

// freePort is one that no outgoing connection is given meanwhile.
async function freePort() {
    for (;;) {
        const port = 20_000 + Math.floor(Math.random() * 12_000);
        if (await isFree(port)) return port;
    }
}

function isFree(port) {
    return new Promise((resolve) => {
        const server = createServer().on("error", () => resolve(false)).listen(port, "127.0.0.1", () => {
            server.close(() => resolve(true));
        });
    });
}
