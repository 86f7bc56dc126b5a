/** The steps of `lxstow init` once the gateway runs: makes it trust this user, and creates the schedule. */
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { readText, stateDir } from '../../contract/config.ts';
import type { ScheduleBody, ShownSchedule } from '../../contract/schemas.ts';
import { type Nightly, usualKeepDaily, usualTime } from '../../init/initAnswers.ts';
import { connectNats } from '../../nats/connection.ts';
import { commonName, fingerprintOf, newGrant, parseCertificate, trustedCertificate } from '../../trust/certificates.ts';
import { ownFiles } from '../../trust/serverCertificate.ts';
import { TrustStore } from '../../trust/trustStore.ts';
import { configured } from '../configured.ts';
import { CliError, exits } from '../exit.ts';
import { assertOwnNats } from '../standalone/ownNats.ts';
import { localZone } from '../terminal/dates.ts';
import { Gateway } from './gatewayClient.ts';
import { addRemote, identity, listRemotes, removeRemote } from './remotes.ts';

const usualName = 'stow';
const scheduleName = 'nightly';
const trustMs = 15_000;
const lookEveryMs = 100;

/** Makes this user's certificate trusted, as admin, and adds the gateway to this user's. Returns the name of the gateway. */
export async function trustThisUser(
  source: { file: string; env: NodeJS.ProcessEnv },
  stop: AbortSignal,
): Promise<string> {
  const { config, log } = configured(source);
  log.level = 'error';
  await assertOwnNats(config, source.env);
  const own = await identity();
  {
    await using nats = await connectNats(config.nats, 'lxstow init', log);
    const trust = new TrustStore(nats, log);
    const certificate = parseCertificate(own.cert);
    if (!(await trust.certificate(fingerprintOf(certificate))))
      await trust.add(trustedCertificate(certificate, commonName(certificate) ?? 'init', newGrant({})));
  }
  const url = `https://127.0.0.1:${config.gateway.port}`;
  const file = config.gateway.certificate ?? ownFiles(stateDir(config, source.env))[0];
  const name = await makeKnown(url, parseCertificate(readText(file, "the gateway's certificate")).toString());
  using gateway = await openGateway(name);
  for (const end = performance.now() + trustMs; (await gateway.ask('GET', [])).auth !== 'trusted'; ) {
    stop.throwIfAborted();
    if (performance.now() > end)
      throw new CliError(exits.refused, `the gateway at ${url} does not trust this user`, { hint: 'lxstow doctor' });
    await delay(lookEveryMs);
  }
  return name;
}

/** Adds the gateway to this user's gateways. Returns its name: the existing one, otherwise `stow`, `stow2` and so on. */
async function makeKnown(url: string, certificate: string): Promise<string> {
  const { remotes } = await listRemotes();
  const same = remotes.find((remote) => remote.url === url);
  if (same?.certificate?.trim() === certificate.trim()) return same.name;
  if (same) await removeRemote(same.name);
  const names = new Set(remotes.map(({ name }) => name));
  let name = same?.name ?? usualName;
  for (let n = 2; !same && names.has(name); n += 1) name = `${usualName}${n}`;
  await addRemote({ name, url, certificate });
  return name;
}

async function openGateway(name: string): Promise<Gateway> {
  const remote = (await listRemotes()).remotes.find((each) => each.name === name);
  if (!remote) throw new CliError(exits.notFound, `gateway ${name} is not known`);
  return new Gateway(remote, await identity());
}

const everyInstance = { all: true };

/** Creates the schedule, or changes in an existing one only what was answered: a schedule without a rule deletes nothing. */
export async function setNightly(name: string, { time, keepDaily }: Nightly): Promise<{ made: boolean; said: string }> {
  using gateway = await openGateway(name);
  const all: ShownSchedule[] = await gateway.ask('GET', ['schedules'], { query: { recursion: '1' } });
  const there = all.find((schedule) => schedule.name === scheduleName)?.definition;
  const isAnswered = time !== undefined || keepDaily !== undefined;
  const definition: ScheduleBody = {
    ...(there ?? { selector: everyInstance, keep: { keep_daily: usualKeepDaily }, ...dueAt(usualTime) }),
    ...(time !== undefined && dueAt(time)),
    ...(keepDaily !== undefined && { keep: { ...there?.keep, keep_daily: keepDaily } }),
  };
  if (!there) await gateway.ask('POST', ['schedules'], { body: { name: scheduleName, definition } });
  else if (isAnswered) await gateway.ask('PUT', ['schedules', scheduleName], { body: definition });
  const { next = 'none, it is paused' }: ShownSchedule = await gateway.ask('GET', ['schedules', scheduleName]);
  if (there && !isAnswered)
    return {
      made: false,
      said: `the schedule ${scheduleName} was there before, and stays as it is; due next: ${next}`,
    };
  const what = isDeepStrictEqual(definition.selector, everyInstance)
    ? 'every instance'
    : `what ${scheduleName} selects`;
  return { made: !there, said: `next backup of ${what}: ${next}` };
}

/** Deletes the schedule, if there is one. */
export async function removeNightly(name: string): Promise<void> {
  using gateway = await openGateway(name);
  await gateway.ask('DELETE', ['schedules', scheduleName]).catch((error) => {
    if (!(error instanceof CliError) || error.exit !== exits.notFound) throw error;
  });
}

/** `03:00` → `0 3 * * *`, in this machine's zone. */
function dueAt(time: string): Pick<ScheduleBody, 'cron' | 'zone'> {
  const [hour, minute] = time.split(':').map(Number);
  return { cron: `${minute} ${hour} * * *`, zone: localZone() };
}
