/** `lxstow init`: sets up backups on a machine with LXD or Incus, by questions or by options. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { plural } from '../../contract/amounts.ts';
import { type ConfigSource, configFile } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import { type AnswerOptions, type Asking, chooseServer, findAnswers, type InitAnswers } from '../../init/askAnswers.ts';
import {
  type Earlier,
  keepCa,
  keepConfiguration,
  type Ports,
  readEarlier,
  usualPorts,
  writeConfiguration,
} from '../../init/configurationFile.ts';
import { placeText } from '../../init/initAnswers.ts';
import { type InitRecord, type Places, placesFor, readRecord, withoutLinks, writeRecord } from '../../init/places.ts';
import { freePorts, usualNatsPort } from '../../init/ports.ts';
import { findProgram } from '../../init/programs.ts';
import { writePage } from '../../init/recoveryPage.ts';
import { findServers, type LocalServer } from '../../init/servers.ts';
import {
  command,
  digestOf,
  hasSystemd,
  isActive,
  isReady,
  logFile,
  start,
  unitsOf,
  withoutStore,
} from '../../init/standaloneService.ts';
import { makeFolder, poolText } from '../../init/tryStore.ts';
import { undo } from '../../init/undo.ts';
import { isPackaged, type Service, unitName } from '../../init/units.ts';
import { removeNightly, setNightly, trustThisUser } from '../client/firstSteps.ts';
import { listRemotes, removeRemote } from '../client/remotes.ts';
import { configured } from '../configured.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { runningOwnNats } from '../standalone/ownNats.ts';
import { Questions } from '../terminal/questions.ts';
import { table } from '../terminal/table.ts';

export interface InitOptions extends AnswerOptions {
  yes?: boolean;
  undo?: boolean;
}

interface InitContext {
  source: ConfigSource;
  stop: AbortSignal;
}

const say = (text: string) => process.stdout.write(`${text}\n`);

/** The files of this user's init, and its record. Only root changes the machine's configuration; others get their own beside it. */
function filesOf(source: ConfigSource): { places: Places; record: InitRecord | undefined } {
  const root = process.getuid?.() === 0;
  const { file, env } = source;
  const places = placesFor(root ? configFile(source) : (file ?? env.LXSTOW_CONFIG), env, root);
  const record = readRecord(places);
  // The environment may name another state directory now.
  return { places: { ...places, state: record?.state ?? places.state }, record };
}

export async function initCommand(options: InitOptions, { source, stop }: InitContext): Promise<Exit> {
  // Only this user may change what init writes and starts, whatever the umask is.
  process.umask(process.umask() | 0o022);
  const { places, record } = filesOf(source);
  const earlier = readEarlier(places);
  assertOurs(places, record, earlier);
  const repeated = earlier?.store !== undefined && !record?.unfinished;
  const { server, answers } = await ask({
    ...{ options, earlier, repeated, env: source.env, state: places.state, stop },
    confined: hasSystemd(places) && isPackaged(),
  });
  const prepared = { places, record, earlier, server, answers, env: source.env };
  const {
    service,
    record: made,
    gateway,
  } = await startAndTrust(prepared, stop).catch((error) => {
    if (!stop.aborted) throw error;
    throw new CliError(exits.interrupted, 'interrupted', {
      hint: 'run `lxstow init` again to finish, or `lxstow init --undo` to undo what was done',
    });
  });
  say(`the gateway trusts this user; its name in commands is ${gateway}:`);
  const madeNightly = await schedule(gateway, answers.nightly, made);
  await writeRecord(places, { ...made, gateway, madeNightly });
  await writePage(places, answers);
  await writeRecord(places, { ...made, gateway, madeNightly, unfinished: false });
  const status = await firstBackup(gateway, answers.backup);
  await sayNext(places, service, answers, gateway);
  return status;
}

async function startAndTrust(prepared: Preparation, stop: AbortSignal) {
  const { places, env } = prepared;
  const { service, record } = await prepare(prepared, stop);
  const gateway = await trustThisUser({ env: withoutStore(env), file: places.config }, stop);
  await writeRecord(places, { ...record, gateway });
  return { service, record, gateway };
}

async function ask(given: Omit<Asking, 'options' | 'server' | 'asker' | 'say'> & { options: InitOptions }) {
  const { options, earlier, env, stop } = given;
  using asker = options.yes ? undefined : new Questions();
  const server = await chooseServer(await findServers(env, stop), options, asker, earlier?.socket);
  const pools = server.pools.map(poolText).join(', ') || 'none';
  const instances = plural(server.instances.length, 'instance');
  say(`${server.product} ${server.version} at ${server.socket}: ${instances}; storage pools: ${pools}`);
  return { server, answers: await findAnswers({ ...given, server, asker, say }) };
}

/** Returns whether there is a schedule that this or an earlier init has created. */
async function schedule(gateway: string, nightly: InitAnswers['nightly'], record: InitRecord): Promise<boolean> {
  if (nightly === 'none' && !record.madeNightly) {
    say('`lxstow init` has made no schedule; to delete one that is called nightly: lxstow schedule delete nightly');
    return false;
  }
  if (nightly === 'none') {
    await removeNightly(gateway);
    say('no instance is backed up every night any more: the schedule nightly is deleted');
    return false;
  }
  const before = record.madeNightly ?? false;
  if (!nightly) return before;
  const { made, said } = await setNightly(gateway, nightly);
  say(said);
  return made || before;
}

async function firstBackup(gateway: string, which: InitAnswers['backup']): Promise<Exit> {
  const how = { tag: [], selector: [], wait: true, format: 'table' as const };
  if (which === 'none') return exits.ok;
  if (which === 'all') {
    const { runCommand } = await import('./run.ts');
    return runCommand([`${gateway}:`], { ...how, all: true, project: [], target: [], exclude: [] });
  }
  const [instance = '', project] = which.instance.split('/').reverse();
  const { backupCommand } = await import('./backup.ts');
  return backupCommand([`${gateway}:${instance}`], { ...how, ...(project !== undefined && { project }) });
}

export async function undoCommand({ source, stop }: InitContext): Promise<Exit> {
  const { places, record } = filesOf(source);
  if (!record)
    throw new CliError(exits.notFound, `${places.record} does not exist: \`lxstow init\` has set up nothing here`);
  const kept = record.hadState ? await takeBackNightly(places, record) : [];
  const { remotes } = await listRemotes();
  if (!record.hadState && record.gateway !== undefined && remotes.some(({ name }) => name === record.gateway))
    await removeRemote(record.gateway);
  kept.push(...(await undo(places, record)));
  stop.throwIfAborted();
  say('lxstow is stopped, and what `lxstow init` set up is removed. These stay:');
  for (const line of kept) say(`  ${line}`);
  return exits.ok;
}

/** Deletes init's schedule, whose rule would delete backups of the standalone that was there before. Returns what to say if it cannot. */
async function takeBackNightly(places: Places, record: InitRecord): Promise<string[]> {
  const { madeNightly, gateway } = record;
  if (!madeNightly || gateway === undefined) return [];
  try {
    await removeNightly(gateway);
    await writeRecord(places, { ...record, madeNightly: false });
    return [];
  } catch (error) {
    return [`the schedule nightly, which init made and cannot delete now: ${(error as Error).message}`];
  }
}

/** Throws conflict if the configuration names a store or a NATS, and was not written by init. */
function assertOurs({ config }: Places, record: InitRecord | undefined, earlier: Earlier | undefined): void {
  if (record || !(earlier?.hasStore || earlier?.hasNats)) return;
  throw new LxstowError(
    'conflict',
    `${config} has a ${earlier.hasStore ? 'store' : 'NATS'} already, and was not written by \`lxstow init\`: it was not touched. Move it away, or name another file: lxstow -c FILE init`,
  );
}

interface Preparation {
  places: Places;
  record: InitRecord | undefined;
  earlier: Earlier | undefined;
  server: LocalServer;
  answers: InitAnswers;
  env: NodeJS.ProcessEnv;
}

/**
 * Writes the configuration, and starts the service unless it already runs with that configuration. The record is written first, so that after an interruption it says what must be
 * done again or undone.
 */
async function prepare({ places, record, earlier, server, answers, env }: Preparation, stop: AbortSignal) {
  const { ports, natsPort } = await choosePorts(places, record, earlier);
  const folder = 'folder' in answers.store ? withoutLinks(answers.store.folder) : undefined;
  const healthPorts = [ports.gatewayHealth, ports.workerHealth];
  const service: Service = { places, program: programOf(env), env, natsPort, healthPorts, gid: server.gid, folder };
  const { state } = places;
  const hadConfiguration = record?.hadConfiguration ?? (await keepConfiguration(places));
  const made: InitRecord = {
    ...record,
    hadConfiguration,
    state,
    hadState: record ? (record.hadState ?? false) : existsSync(join(state, 'nats')),
    natsPort,
    service: hasSystemd(places) ? 'systemd' : 'background',
    units: [...new Set([...(record?.units ?? []), ...unitsOf(service).map(({ path }) => path)])],
    store: placeText(answers.store),
    unfinished: record?.unfinished ?? record === undefined,
  };
  await writeRecord(places, made);
  const store = await keepCa(places, answers.store);
  const written = await writeConfiguration(places, {
    store,
    access: answers.access,
    socket: server.socket,
    state,
    ports,
  });
  say(`${places.config} ${written ? 'is written' : 'is unchanged'}`);
  if ('folder' in answers.store) await makeFolder(answers.store.folder);
  // Throws bad-config here, before the service is started.
  configured({ file: places.config, env: withoutStore(env) });
  const wanted = digestOf(service);
  if (record?.started !== wanted || !(await isReady(healthPorts))) {
    say(made.service === 'systemd' ? `starting ${unitName}` : 'starting lxstow in the background');
    await start(service, stop);
    made.started = wanted;
    await writeRecord(places, made);
  } else say('lxstow runs already');
  return { service, record: made };
}

/** The ports of the service that this one replaces; without one, free ports. Throws conflict if that service cannot be stopped here. */
async function choosePorts(places: Places, record: InitRecord | undefined, earlier: Earlier | undefined) {
  const usual = earlier?.ports ?? usualPorts;
  const running = record ? undefined : await runningOwnNats(places.state);
  if (running !== undefined && !(hasSystemd(places) && (await isActive())))
    throw new LxstowError(
      'conflict',
      `lxstow standalone runs already, with the state directory ${places.state}: stop it, then run this again. Jobs, trust and schedules stay`,
    );
  const known = running !== undefined || (record !== undefined && earlier?.store !== undefined);
  const ports: Ports = known ? usual : await freePorts<keyof Ports>(usual);
  return { ports, natsPort: record?.natsPort ?? running ?? (await freePorts({ nats: usualNatsPort })).nats };
}

/** The command that runs lxstow: `lxstow` on the PATH, because the package's script also finds the programs in the package; otherwise Node and this file. */
function programOf(env: NodeJS.ProcessEnv): string[] {
  const installed = findProgram('lxstow', env);
  return installed === undefined ? [process.execPath, process.argv[1] ?? ''] : [installed];
}

async function sayNext(places: Places, service: Service, { store }: InitAnswers, gateway: string): Promise<void> {
  const { standard } = await listRemotes();
  const name = gateway === standard ? 'NAME' : `${gateway}:NAME`;
  const other = process.env.SUDO_USER;
  const commands = [
    [`  lxstow backup ${name}`, 'back up an instance now'],
    [`  lxstow list ${name}`, 'its backups'],
    [`  lxstow restore ${name} latest`, 'restore it if it is gone; --as OTHER makes a copy'],
    ['  lxstow status', 'whether every instance has a recent backup'],
    ['  lxstow schedule next --instances', 'what is backed up next, and when'],
    ['  lxstow doctor', 'what is wrong, and what to do'],
  ];
  say(`
Backups go to ${placeText(store)}. KEEP ${places.page} ELSEWHERE:
with it and the store, everything can be restored on another machine.

${table(['What to type next:', ''], commands).trimEnd()}`);
  if (!hasSystemd(places))
    say(`
systemd does not run lxstow here, so nothing starts it after a reboot. Its log is ${logFile(places)}. To start it:
  ${command(service).join(' ')} >>${logFile(places)} 2>&1 &`);
  if (other && other !== 'root')
    say(`\nTo use lxstow as ${other}: sudo lxstow trust token ${other} | lxstow remote add stow -`);
}
