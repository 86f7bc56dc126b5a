/** Writes docs/asyncapi.yaml from schemas/ and the gateway's endpoints: `node docs/asyncapi.ts`. With --check it only says whether it is stale. */
import { readFile, writeFile } from 'node:fs/promises';
import { stringify } from 'yaml';
import { version } from '../services/contract/version.ts';
import { endpoints } from '../services/gateway/natsApi/endpoints.ts';
import { type Json, openBundle } from './bundle.ts';

const target = new URL('asyncapi.yaml', import.meta.url);
const { files, schemas, schema } = await openBundle();

const parameters: Record<string, Json> = {
  remote: { description: 'A name in `remotes` of the configuration.' },
  kind: { description: 'backup, restore, delete or prune.' },
  project: {
    description:
      'An LXD project. Every character other than letters, digits, `_` and `-` is written as `=` and two hex digits for each byte.',
  },
  instance: { description: 'An LXD instance.' },
  id: { description: "An operation's id, or a run's." },
};

function channel(address: string | null, messages: Json): Json {
  const names = [...(address ?? '').matchAll(/{(\w+)}/g)].map(([, name = '']) => name);
  return {
    address,
    ...(names.length > 0 && {
      parameters: Object.fromEntries(names.map((name) => [name, { $ref: `#/components/parameters/${name}` }])),
    }),
    messages,
  };
}

const text = { type: 'string' };
const headers = (properties: Json): Json => ({ type: 'object', properties });
const messages: Json = {
  error: {
    summary: 'The answer to a request that failed.',
    headers: headers({
      'Nats-Service-Error': { ...text, description: 'What happened, and what to do.' },
      'Nats-Service-Error-Code': { ...text, description: 'The HTTP status that the REST API would answer with.' },
      'Lxstow-Error-Code': { ...text, description: 'One of the codes in services/contract/errors.ts.' },
    }),
    payload: schema('nats-api.json#/$defs/error'),
  },
  published: {
    summary: "JetStream's answer: the job is on disk.",
    payload: {
      type: 'object',
      required: ['stream', 'seq'],
      properties: {
        stream: { const: 'LXSTOW_JOBS' },
        seq: { type: 'integer' },
        duplicate: {
          type: 'boolean',
          description:
            'A message with this Nats-Msg-Id was published within the last two minutes, so this one is not a second job.',
        },
      },
    },
  },
};
const channels: Json = {};
const operations: Json = {};
const message = (name: string) => ({ $ref: `#/components/messages/${name}` });
const within = (name: string, each: string) => ({ $ref: `#/channels/${name}/messages/${each}` });

/** A request and its answers. */
function exchange(name: string, address: string, summary: string, request: Json, answers: string[]): void {
  messages[`${name}-request`] = request;
  channels[name] = channel(address, { request: message(`${name}-request`) });
  channels[`${name}-reply`] = channel(
    null,
    Object.fromEntries(answers.map((answer) => [answer.replace(/^.*-/, ''), message(answer)])),
  );
  operations[name] = {
    action: 'receive',
    summary,
    channel: { $ref: `#/channels/${name}` },
    messages: [within(name, 'request')],
    reply: {
      channel: { $ref: `#/channels/${name}-reply` },
      messages: answers.map((answer) => within(`${name}-reply`, answer.replace(/^.*-/, ''))),
    },
  };
}

for (const { name, subject, description, request, answer } of endpoints) {
  messages[`${name}-answer`] = { payload: schema(answer) };
  exchange(name, `lxstow.api.${subject}`, description, { payload: schema(request) }, [`${name}-answer`, 'error']);
}
for (const kind of ['backup', 'restore', 'delete']) {
  const file = `job-${kind}.json`;
  const job = {
    headers: headers({
      'Nats-Msg-Id': {
        ...text,
        format: 'uuid',
        description: "Becomes the operation's id. A second message with the same id is not a second job.",
      },
      traceparent: {
        ...text,
        description: 'W3C trace context: the log lines about the job and the operation contain its trace id.',
      },
    }),
    payload: schema(file),
  };
  const summary = (files[file]?.description as string) ?? '';
  const subject = `lxstow.jobs.{remote}.${kind}.{project}.{instance}`;
  exchange(`job-${kind}`, subject, summary, job, ['published']);
  if (kind === 'restore') {
    const from = `${subject}.from.{sourceRemote}.{sourceProject}.{sourceInstance}`;
    exchange(`job-${kind}-from`, from, `${summary} From a backup of another instance.`, job, ['published']);
    const free = 'It may contain what LXD refuses in restricted projects.';
    exchange(`job-${kind}-unrestricted`, `${subject}.unrestricted`, `${summary} ${free}`, job, ['published']);
    exchange(
      `job-${kind}-from-unrestricted`,
      `${from}.unrestricted`,
      `${summary} From a backup of another instance. ${free}`,
      job,
      ['published'],
    );
  }
}

/** What lxstow writes for others to read. */
function written(name: string, address: string, summary: string, what: Json): void {
  messages[name] = what;
  channels[name] = channel(address, { [name]: message(name) });
  operations[name] = {
    action: 'send',
    summary,
    channel: { $ref: `#/channels/${name}` },
    messages: [within(name, name)],
  };
}

written(
  'operation-record',
  '$KV.lxstow_operations.{remote}.{id}',
  'Every state of every operation, in the bucket lxstow_operations.',
  { payload: schema('operation.json') },
);
written(
  'notice',
  'lxstow.notices.{remote}.{id}',
  'A notice to a webhook, in the stream LXSTOW_NOTICES until it is delivered or given up.',
  {
    headers: headers({
      'Lxstow-Notice': { ...text, description: 'The webhook-id.' },
      'Lxstow-Endpoint': { ...text, description: 'The URL of the webhook.' },
      'Lxstow-Endpoint-Named-By': { enum: ['configuration', 'request'] },
      'Lxstow-Ping': {
        ...text,
        description: 'Of a ping, whose payload is text: `GET` or `POST`, and `start`, `up` or `down`.',
      },
    }),
    payload: schema('notice.json'),
  },
);
written('run-record', '$KV.lxstow_runs.{id}.head', 'Every state of every run, in the bucket lxstow_runs.', {
  payload: schema('run.json'),
});
written('run-notice', 'lxstow.notices.=runs.{id}', 'A notice about a run, with the same headers.', {
  payload: schema('run-answers.json#/$defs/notice'),
});
written(
  'dead-letter',
  'lxstow.dead.{remote}.{kind}.{project}.{instance}',
  'A dead letter: the message of a job that failed for good, or that no worker could read, unchanged, in the stream LXSTOW_DEAD.',
  {
    headers: headers({
      'Lxstow-Error': { ...text, description: 'Why it failed.' },
      'Lxstow-Error-Code': { ...text, description: 'One of the codes in services/contract/errors.ts.' },
      'Lxstow-Operation': { ...text, description: 'The operation that failed.' },
      'Lxstow-Sequence': { ...text, description: 'Its sequence in LXSTOW_JOBS.' },
    }),
    payload: { description: 'The body as it was published; it need not be JSON.' },
  },
);

const byName = (given: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(given).sort(([a], [b]) => (a < b ? -1 : 1)));
const document = {
  asyncapi: '3.0.0',
  info: {
    title: 'lxstow over NATS',
    version,
    description: 'What gateways receive, and what lxstow writes. docs/nats.md explains it.',
    license: { name: 'Apache-2.0' },
  },
  servers: { nats: { host: '127.0.0.1:4222', protocol: 'nats', description: 'nats.servers of the configuration.' } },
  defaultContentType: 'application/json',
  channels,
  operations,
  components: { parameters, messages: byName(messages), schemas: byName(schemas) },
};
const fresh = `# Made by docs/asyncapi.ts from schemas/*.json and services/gateway/natsApi/endpoints.ts. Change those, not this.\n${stringify(
  document,
  { lineWidth: 120, aliasDuplicateObjects: false },
)}`;
const present = await readFile(target, 'utf8').catch(() => '');
if (process.argv.includes('--check')) {
  if (present !== fresh) {
    console.error('docs/asyncapi.yaml is stale: run `npm run generate`');
    process.exitCode = 1;
  }
} else if (present !== fresh) await writeFile(target, fresh);
