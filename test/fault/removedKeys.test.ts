/**
 * A nats-server that is killed restores the last value of a key that was removed, once the marker of its removal has expired (docs/nats.md). What was
 * revoked, used up or deleted stays so.
 */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Config, Schedule } from '../../services/contract/schemas.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { setUp } from '../../services/nats/setup.ts';
import { instancesBucket, schedulesBucket, trustBucket } from '../../services/nats/streams.ts';
import { ScheduleStore } from '../../services/schedules/scheduleStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { newGrant, trustedCertificate } from '../../services/trust/certificates.ts';
import { newToken } from '../../services/trust/tokens.ts';
import { TrustStore } from '../../services/trust/trustStore.ts';
import { makeCertificate } from '../lab/certificates.ts';
import { type LabNats, startNats } from '../lab/nats.ts';
import { Dice, rounds, seed } from './truth.ts';

const log = createLogger({ level: 'error', format: 'text' }, {});
const by = { username: 'tester', protocol: 'nats', address: 'here' };
const killsInRound = 3;

describe('what was removed, when nats-server is killed', { timeout: 1_200_000 }, () => {
  let server: LabNats;
  let nats: Nats;
  before(async () => {
    server = await startNats({ log: () => undefined, name: 'removed', sync: false });
    const config = { nats: { servers: [server.url], replicas: 1, maxQueuedJobs: 1000 }, remotes: { local: {} } };
    nats = await connectNats(config.nats as Config['nats'], 'removed', log);
    await setUp(nats, config as unknown as Config);
    // NATS removes a file of messages with the last of them: others keep it.
    assert.ok(await new ScheduleStore(nats).create({ name: 'other' } as Schedule));
    assert.ok(await new Bucket(nats, instancesBucket).create('local.default.other', '{}'));
    await new TrustStore(nats, log).announce({ fingerprint: '0'.repeat(64), addresses: ['127.0.0.1:1'] });
  });
  after(async () => {
    await nats?.[Symbol.asyncDispose]();
    await server?.[Symbol.asyncDispose]();
  });

  for (let round = 1; round <= rounds; round++)
    it(`round ${round}, seed ${seed}: stays so`, async (test) => {
      const dice = new Dice(seed + round);
      const trust = new TrustStore(nats, log, 20_000);
      const schedules = new ScheduleStore(nats);
      const plain = new Bucket(nats, instancesBucket, 20_000);
      const place = { fingerprint: '0'.repeat(64), addresses: ['127.0.0.1:1'] };
      const { cert } = await makeCertificate({ commonName: `round ${round}` });
      const certificate = trustedCertificate(new X509Certificate(cert), `round ${round}`, newGrant({}));
      const { token, secret } = newToken('laptop', newGrant({}), place, new Date(Date.now() + 3_600_000));
      const schedule = { name: `nightly-${round}` } as Schedule;
      let revived = 0;

      await trust.add(certificate);
      await trust.addToken(token, secret);
      assert.ok(await schedules.create(schedule));
      assert.ok(await plain.create(`local.default.c${round}`, '{}'));

      const removals = [
        () => trust.revoke(certificate, by),
        async () =>
          assert.ok(dice.pick([true, false]) ? await trust.redeem(secret, by) : await trust.revokeToken(token.id, by)),
        async () => {
          const stored = await schedules.find(schedule.name);
          assert.ok(stored && (await schedules.remove(stored)));
        },
        async () => {
          const { entry } = await plain.get(`local.default.c${round}`);
          assert.ok(entry && (await plain.remove(entry.key, entry.revision)));
        },
      ];
      // One of them is cut by the first kill, and ends when NATS is back.
      const cut = Math.floor(dice.between(0, removals.length));
      for (const [index, remove] of removals.entries()) if (index !== cut) await remove();
      const late = removals[cut]?.();
      await delay(dice.between(0, 5));
      await restart(server, nats);
      await late;

      for (let kill = 0; kill < killsInRound; kill++) {
        for (const bucket of [trustBucket, schedulesBucket, instancesBucket]) await expireMarkers(nats, bucket);
        await restart(server, nats);
        assert.equal(await trust.certificate(certificate.fingerprint), undefined, 'the certificate');
        assert.deepEqual([await trust.token(token.id), await trust.redeem(secret, by)], [undefined, undefined]);
        assert.equal(await schedules.find(schedule.name), undefined, 'the schedule');
        if ((await plain.get(`local.default.c${round}`)).entry) revived++;
      }
      const left = (await schedules.list()).map((each) => each.schedule.name);
      assert.deepEqual([await trust.certificates(), await trust.tokens(), left], [[], [], ['other']]);
      test.diagnostic(`of ${killsInRound} kills, ${revived} restored a key that was removed without a record`);
    });

  it('can be added again', async () => {
    const trust = new TrustStore(nats, log, 20_000);
    const schedules = new ScheduleStore(nats);
    const { cert } = await makeCertificate({ commonName: 'again' });
    const certificate = trustedCertificate(new X509Certificate(cert), 'again', newGrant({}));
    for (let time = 0; time < 2; time++) {
      await trust.add(certificate);
      await assert.rejects(trust.add(certificate), /already in trust store/);
      await trust.revoke(certificate, by);
      assert.ok(await schedules.create({ name: 'again' } as Schedule));
      const stored = await schedules.find('again');
      assert.ok(stored && (await schedules.remove(stored)));
    }
    await trust.add(certificate);
    await restart(server, nats);
    assert.deepEqual(await trust.certificates().then((all) => all.map((each) => each.certificate)), [certificate]);
  });
});

async function restart(server: LabNats, { connection }: Nats): Promise<void> {
  await server.kill();
  await server.start();
  for (;;) {
    const back = await connection.flush().then(
      () => true,
      () => false,
    );
    if (back) return;
    await delay(50);
  }
}

/** Ends the markers that NATS would end later, as it does: each by a message that says so. */
async function expireMarkers({ jsm }: Nats, bucket: string): Promise<void> {
  const stream = `KV_${bucket}`;
  const { state } = await jsm.streams.info(stream, { subjects_filter: '>' });
  for (const last_by_subj of Object.keys(state.subjects ?? {})) {
    const message = await jsm.streams.getMessage(stream, { last_by_subj });
    if (message?.header.get('KV-Operation') && message.header.get('Nats-TTL'))
      await jsm.streams.deleteMessage(stream, message.seq, false);
  }
}
