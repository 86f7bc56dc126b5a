/** Finds out what init must know: from the options, from an earlier configuration, or by asking. Tests each store at once. */
import { readText } from '../contract/config.ts';
import { LxstowError } from '../contract/errors.ts';
import type { Finding } from '../doctor/finding.ts';
import type { Earlier } from './configurationFile.ts';
import {
  type Access,
  type Nightly,
  placeText,
  readAccess,
  readBucket,
  readDays,
  readKey,
  readPlace,
  readTime,
  readYes,
  type S3Place,
  type Store,
  usualBucket,
  usualKeepDaily,
  usualRegion,
  usualTime,
} from './initAnswers.ts';
import { findProgram } from './programs.ts';
import type { FoundServers, LocalServer } from './servers.ts';
import { tryFolder, tryS3 } from './tryStore.ts';

export interface Question<T> {
  text: string;
  /** The answer that an empty line stands for. */
  usual?: string | undefined;
  /** The answer is not shown. */
  hidden?: boolean;
  /** The option that answers it. */
  flag: string;
  /** Throws bad-request with what is wrong with the answer: it is then asked again. */
  read(text: string): T | Promise<T>;
}

/** Asks the person at the terminal. */
export interface Asker {
  ask<T>(question: Question<T>): Promise<T>;
}

export interface AnswerOptions {
  store?: string;
  accessKeyFile?: string;
  secretKeyFile?: string;
  region?: string;
  ca?: string;
  engine?: 'lxd' | 'incus';
  /** False: no schedule. */
  nightly?: string | false;
  keepDaily?: string;
  backup?: string;
}

export interface InitAnswers {
  store: Store;
  access: Access;
  /** `none`: the schedule of an earlier init is deleted. Undefined: no schedule is touched. */
  nightly: Nightly | 'none' | undefined;
  /** What to back up now: an instance, all, or none. */
  backup: 'all' | 'none' | { instance: string };
}

export interface Asking {
  options: AnswerOptions;
  earlier: Earlier | undefined;
  /** Whether an earlier init has run to its end. */
  repeated: boolean;
  server: LocalServer;
  env: NodeJS.ProcessEnv;
  /** The state directory. */
  state: string;
  /** With a folder as the store, the service will be root without capabilities. */
  confined: boolean;
  stop: AbortSignal;
  /** Undefined with --yes. */
  asker: Asker | undefined;
  say(text: string): void;
}

/** `configured`: the socket of an earlier configuration, which is the usual answer. */
export async function chooseServer(
  { found, unusable }: FoundServers,
  { engine }: AnswerOptions,
  asker: Asker | undefined,
  configured?: string,
): Promise<LocalServer> {
  const named = (name: string) => found.find(({ product }) => product.toLowerCase() === name);
  if (found.length === 0)
    throw new LxstowError(
      'lxd-unavailable',
      unusable.length > 0
        ? `${unusable.join('; ')}. Run this as root, or as a member of the group that may use its socket`
        : 'there is no LXD and no Incus on this machine: install one and initialise it (`lxd init --auto`, `incus admin init --minimal`), then run this again',
    );
  if (engine !== undefined) {
    const server = named(engine);
    if (server) return server;
    throw new LxstowError(
      'bad-request',
      `--engine ${engine}: only ${found.map(({ product }) => product).join(' and ')} is here`,
    );
  }
  const rank = ({ socket, instances }: LocalServer) => (socket === configured ? Infinity : instances.length);
  const [first, ...others] = found.toSorted((a, b) => rank(b) - rank(a)) as [LocalServer];
  if (others.length === 0 || !asker) return first;
  const counts = found.map(({ product, instances }) => `${product} has ${instances.length}`).join(', ');
  return asker.ask({
    text: `Both LXD and Incus are on this machine (instances: ${counts}). Which one should be backed up?`,
    usual: first.product.toLowerCase(),
    flag: '--engine',
    read(text) {
      const server = named(text.trim().toLowerCase());
      if (server) return server;
      throw new LxstowError('bad-request', `${JSON.stringify(text)}: answer lxd or incus`);
    },
  });
}

export async function findAnswers(asking: Asking): Promise<InitAnswers> {
  const { earlier } = asking;
  if (asking.options.store === undefined && earlier?.hasStore && !earlier.store)
    throw new LxstowError(
      'conflict',
      'the configuration names a store without its keys: add s3.accessKey and s3.secretKey, or give --store',
    );
  const store =
    asking.options.store === undefined && !asking.asker ? await usualStore(asking) : await findStore(asking);
  return { store, access: accessIn(asking), nightly: await findNightly(asking), backup: await findBackup(asking) };
}

const accessIn = ({ earlier, env }: Asking) => readAccess(earlier?.access ?? {}, env);

/** With --yes and without --store: the configured store, otherwise a folder on this machine. */
async function usualStore(asking: Asking): Promise<Store> {
  const store = asking.earlier?.store ?? { folder: usualFolder };
  accept(await tried(store, asking), asking);
  return store;
}

const usualFolder = '/var/backups/lxstow';

async function findStore(asking: Asking): Promise<Store> {
  const { options, earlier, asker, env, say } = asking;
  let before = earlier?.store;
  for (;;) {
    const place = await answer(asking, {
      text: 'Where should backups go? A folder, for example on a NAS, or the URL of an S3 server',
      usual: before ? placeOf(before) : findProgram('versitygw', env) && usualFolder,
      flag: '--store',
      given: options.store,
      read: readPlace,
    });
    const store = 'folder' in place ? place : await findS3(place, asking, before);
    before = store;
    const problems = await tried(store, asking);
    if (accept(problems, asking)) return store;
    if (!asker || options.store !== undefined)
      throw new LxstowError('bad-config', `${placeText(store)} cannot be used`);
    say('Try again:');
  }
}

const placeOf = (store: Store) => ('folder' in store ? store.folder : `${store.endpoint}/${store.bucket}`);

async function findS3(
  { endpoint, bucket }: { endpoint: string; bucket: string | undefined },
  asking: Asking,
  before: Store | undefined,
): Promise<S3Place> {
  const { options, env } = asking;
  const known = before && !('folder' in before) && before.endpoint === endpoint ? before : undefined;
  const key = (name: string, file: string | undefined) => {
    const path = file ?? env[`LXSTOW_S3_${name}_FILE`];
    return path === undefined ? env[`LXSTOW_S3_${name}`] : readText(path, 'the key').trim();
  };
  return {
    endpoint,
    bucket:
      bucket ??
      (await answer(asking, {
        text: 'Bucket; it is created if it does not exist',
        usual: known?.bucket ?? usualBucket,
        flag: '--store',
        read: readBucket,
      })),
    region: options.region ?? known?.region ?? usualRegion,
    ...((options.ca ?? known?.ca) !== undefined && { ca: options.ca ?? known?.ca }),
    accessKey: await answer(asking, {
      text: 'Access key',
      usual: known?.accessKey,
      flag: '--access-key-file or LXSTOW_S3_ACCESS_KEY',
      given: key('ACCESS_KEY', options.accessKeyFile),
      read: readKey,
    }),
    secretKey: await answer(asking, {
      text: known ? 'Secret key; leave it empty to keep the present one' : 'Secret key; it is not shown',
      usual: known?.secretKey,
      hidden: true,
      flag: '--secret-key-file or LXSTOW_S3_SECRET_KEY',
      given: key('SECRET_KEY', options.secretKeyFile),
      read: readKey,
    }),
  };
}

async function tried(store: Store, asking: Asking): Promise<Finding[]> {
  return 'folder' in store
    ? tryFolder(store, asking.server, asking)
    : tryS3({ ...store, ...accessIn(asking) }, asking.stop);
}

/** Prints the findings; whether the store can be used. */
function accept(findings: Finding[], { asker, say }: Asking): boolean {
  for (const { level, finding, advice } of findings)
    say(`  ${level.padEnd(7)}  ${finding}${advice === null ? '' : `\n           → ${advice}`}`);
  const problems = findings.filter(({ level }) => level === 'problem');
  if (problems.length > 0 && !asker)
    throw new LxstowError(
      'bad-config',
      `the store cannot be used: ${problems.map(({ finding }) => finding).join('; ')}`,
    );
  return problems.length === 0;
}

async function findNightly(asking: Asking): Promise<InitAnswers['nightly']> {
  const { options, repeated, asker } = asking;
  const { nightly, keepDaily } = options;
  if (nightly === false) return undefined;
  // An existing schedule stays unchanged, unless the options say otherwise.
  if (repeated && nightly === undefined && keepDaily === undefined && !asker) return undefined;
  const asIs = 'as it is';
  // With --yes, even a schedule that init has not made stays as it is.
  const stays = repeated || !asker;
  const time = await answer(asking, {
    text: 'Back up every instance every night? Give a time, or no',
    usual: stays ? asIs : usualTime,
    flag: '--nightly',
    given: nightly ?? (repeated && keepDaily !== undefined ? asIs : undefined),
    read: (text) => (text === asIs ? asIs : readTime(text)),
  });
  // As an option, `no` means that init makes no schedule; as an answer, that init's schedule is to go.
  if (time === undefined) return repeated && nightly === undefined ? 'none' : undefined;
  if (repeated && time === asIs && keepDaily === undefined) return undefined;
  const days = await answer(asking, {
    text: 'For how many nights should backups be kept?',
    usual: stays ? asIs : String(usualKeepDaily),
    flag: '--keep-daily',
    given: keepDaily,
    read: (text) => (text === asIs ? undefined : readDays(text)),
  });
  return { time: time === asIs ? undefined : time, keepDaily: days };
}

async function findBackup(asking: Asking): Promise<InitAnswers['backup']> {
  const { options, repeated, server } = asking;
  const names = server.instances;
  if (names.length === 0 && options.backup === undefined) return 'none';
  return answer(asking, {
    text: `Back up now? Yes (${names.length === 1 ? names[0] : `all ${names.length} instances`}), no, or the name of an instance`,
    usual: repeated ? 'no' : 'yes',
    flag: '--backup',
    given: options.backup,
    read(text) {
      const word = text.trim();
      if (names.includes(word)) return { instance: word };
      if (/^(all|none)$/i.test(word)) return word.toLowerCase() as 'all' | 'none';
      if (/^(y|yes|n|no)$/i.test(word)) return readYes(word) ? 'all' : 'none';
      throw new LxstowError('bad-request', `there is no instance ${word}; there are: ${names.join(', ') || 'none'}`);
    },
  });
}

/** The option's value; otherwise the answer to the question; otherwise the default. */
async function answer<T>(
  { asker }: Asking,
  { given, ...question }: Question<T> & { given?: string | undefined },
): Promise<T> {
  const { text, usual, flag, read } = question;
  if (given === undefined && asker) return asker.ask(question);
  const value = given ?? usual;
  if (value === undefined) throw new LxstowError('bad-request', `no answer to “${text}”: give ${flag}`);
  try {
    return await read(value);
  } catch (error) {
    if (!(error instanceof LxstowError) || given === undefined) throw error;
    throw new LxstowError(error.code, `${flag}: ${error.message}`, { cause: error });
  }
}
