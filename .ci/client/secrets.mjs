// Two people chat in an encrypted room, with matrix-js-sdk and its Rust crypto; one of them on a second device, which
// gets the keys of what was said before it was there. They send each other a picture.
import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { deflateSync } from "node:zlib";
import { register, Story } from "./chat.mjs";

// secrets is chat of chat.mjs for what is encrypted.
export async function secrets({ url, bobsURL = url, routes, stepMs, log }) {
    return new Story(url, bobsURL, routes).tell(steps, stepMs, log);
}

const steps = {
    "both register for an encrypted chat": register,

    "both have devices with keys": async (s) => {
        s.keys = {};
        s.alice = await s.secret("alice", () => s.keys.alice);
        s.bob = await s.secret("bob", () => s.keys.bob);
    },

    "alice sets up cross-signing, secret storage and a backup of her keys": async (s) => {
        const crypto = s.alice.getCrypto();
        await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (upload) => upload(null) });
        s.keys.alice = await crypto.createRecoveryKeyFromPassphrase();
        await crypto.bootstrapSecretStorage({
            createSecretStorageKey: async () => s.keys.alice, setupNewSecretStorage: true, setupNewKeyBackup: true,
        });
        assert.ok(await crypto.isCrossSigningReady());
        assert.ok(await crypto.isSecretStorageReady());
        assert.ok(await crypto.getActiveSessionBackupVersion());
    },

    "replacing cross-signing keys asks for the password": async (s) => {
        const key = generateKeyPairSync("ed25519").publicKey.export({ format: "jwk" }).x.replaceAll("-", "+").replaceAll("_", "/");
        const master_key = { user_id: s.ids.alice, usage: ["master"], keys: { [`ed25519:${key}`]: key } };
        const replaced = s.alice.http.authedRequest("POST", "/keys/device_signing/upload", undefined, { master_key });
        const asked = await replaced.then(() => assert.fail("replaced without being asked anything"), (err) => err);
        assert.equal(asked.httpStatus, 401, `${asked}`);
        assert.ok(asked.data.flows.some((flow) => flow.stages.includes("m.login.password")));
    },

    "an encrypted room": async (s) => {
        const { room_id } = await s.alice.createRoom({
            preset: "private_chat", invite: [s.ids.bob],
            initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
        });
        s.room = room_id;
        await s.until(() => s.bob.getRoom(room_id)?.getMyMembership() === "invite");
        await s.bob.joinRoom(room_id);
        for (const client of [s.alice, s.bob]) {
            await s.until(() => client.getRoom(s.room)?.getMember(s.ids.bob)?.membership === "join");
            assert.ok(await client.getCrypto().isEncryptionEnabledInRoom(room_id));
        }
    },

    "secrets both ways": async (s) => {
        s.first = await whisper(s, s.alice, [s.bob], "for bob only");
        s.second = await whisper(s, s.bob, [s.alice], "for alice only");
    },

    "the keys are in the backup": async (s) => {
        const path = "/room_keys/version";
        await s.until(async () => (await s.alice.http.authedRequest("GET", path)).count > 0);
    },

    "alice's second device is signed by her": async (s) => {
        s.other = await s.secret("alice", () => s.keys.alice);
        const crypto = s.other.getCrypto();
        await s.until(() => crypto.userHasCrossSigningKeys(s.ids.alice, true)); // it has asked whose keys to restore
        await crypto.bootstrapCrossSigning({});
        assert.ok(await crypto.isCrossSigningReady());
        const signed = async (client) => {
            const status = await client.getCrypto().getDeviceVerificationStatus(s.ids.alice, s.other.getDeviceId());
            return status?.signedByOwner;
        };
        for (const client of [s.other, s.alice, s.bob]) await s.until(() => signed(client));
    },

    "it restores what was said before from the backup": async (s) => {
        const crypto = s.other.getCrypto();
        await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        const restored = await crypto.restoreKeyBackup();
        assert.ok(restored.imported >= 2, `${restored.imported} keys`);
        const room = await s.until(() => s.other.getRoom(s.room));
        for (const [id, text] of [[s.first, "for bob only"], [s.second, "for alice only"]]) {
            const event = await s.until(() => room.findEventById(id));
            await s.until(async () => {
                await s.other.decryptEventIfNeeded(event, { emit: false });
                if (event.isDecryptionFailure()) await event.attemptDecryption(s.other.getCryptoBackend?.() ?? crypto, { isRetry: true });
                return event.getContent().body === text;
            });
        }
    },

    "new secrets reach every device": async (s) => {
        await whisper(s, s.bob, [s.alice, s.other], "for both of alice's devices");
        await whisper(s, s.other, [s.alice, s.bob], "from the second device");
    },

    "alice sends a picture, bob sees it and its thumbnail": async (s) => {
        const picture = png(200, 120);
        const { content_uri } = await s.alice.uploadContent(new Blob([picture], { type: "image/png" }), { name: "tea.png", type: "image/png" });
        await s.alice.sendImageMessage(s.room, content_uri, { mimetype: "image/png", w: 200, h: 120 }, "tea");
        const event = await s.until(() => s.bob.getRoom(s.room).getLiveTimeline().getEvents().find((e) => e.getContent().msgtype === "m.image"));
        const url = event.getContent().url;
        const whole = await fetched(s.bob, s.bob.mxcUrlToHttp(url, undefined, undefined, undefined, false, true, true));
        assert.deepEqual(whole, picture);
        const small = await fetched(s.bob, s.bob.mxcUrlToHttp(url, 96, 96, "crop", false, true, true));
        assert.deepEqual([small.readUInt32BE(16), small.readUInt32BE(20)], [96, 96]);
    },
};

// whisper sends a text that is encrypted on its way, and returns its event id once the others can read it.
async function whisper(s, from, others, body) {
    const { event_id } = await from.sendTextMessage(s.room, body);
    for (const to of others) {
        const event = await s.until(() => to.getRoom(s.room)?.findEventById(event_id));
        await s.until(() => event.getContent().body === body);
        assert.equal(event.getWireType(), "m.room.encrypted");
        assert.ok(!JSON.stringify(event.getWireContent()).includes(body));
    }
    return event_id;
}

// fetched is a file that a device with a token gets.
async function fetched(client, url) {
    const answer = await fetch(url, { headers: { Authorization: `Bearer ${client.getAccessToken()}` } });
    assert.equal(answer.status, 200, url);
    assert.equal(answer.headers.get("content-type"), "image/png");
    return Buffer.from(await answer.arrayBuffer());
}

// png makes a picture of some colours.
function png(width, height) {
    const row = (y) => Buffer.from([0, ...Array.from({ length: width }, (_, x) => [x & 255, y & 255, (x * y) & 255]).flat()]);
    const chunk = (type, data) => {
        const body = Buffer.concat([Buffer.from(type), data]);
        const frame = Buffer.alloc(8 + body.length);
        frame.writeUInt32BE(data.length);
        body.copy(frame, 4);
        frame.writeUInt32BE(crc(body), 4 + body.length);
        return frame;
    };
    const header = Buffer.alloc(13);
    header.writeUInt32BE(width);
    header.writeUInt32BE(height, 4);
    header.set([8, 2, 0, 0, 0], 8);
    const pixels = deflateSync(Buffer.concat(Array.from({ length: height }, (_, y) => row(y))));
    return Buffer.concat([
        Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]), chunk("IHDR", header), chunk("IDAT", pixels), chunk("IEND", Buffer.alloc(0)),
    ]);
}

function crc(data) {
    let c = ~0;
    for (const byte of data) {
        c ^= byte;
        for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
    }
    return ~c >>> 0;
}
