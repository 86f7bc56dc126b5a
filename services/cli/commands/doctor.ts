/** `lxstow doctor`: checks everything that this machine's configuration uses, and says what to do. */

import { plural } from '../../contract/amounts.ts';
import { type ConfigSource, configFile, type Examined, examineConfig } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { examineConfiguration, examineFile, examineGzip, examineNode } from '../../doctor/configuration.ts';
import {
  type Area,
  areas,
  type Check,
  examine,
  type Finding,
  messageOf,
  type Patient,
  type Report,
  type Role,
  reportTo,
  roles,
} from '../../doctor/finding.ts';
import { examineGateway } from '../../doctor/gateway.ts';
import { examineLxd } from '../../doctor/lxd.ts';
import { examineNats } from '../../doctor/nats.ts';
import { examineS3 } from '../../doctor/s3.ts';
import { createLogger } from '../../telemetry/logger.ts';
import { assertOwnNats, besideOwnNats } from '../standalone/ownNats.ts';
import { besideOwnStore } from '../standalone/ownStore.ts';
import { type Format, print } from '../terminal/output.ts';

interface DoctorCommand {
  source: ConfigSource;
  /** The role of this machine; undefined: the roles that the configuration has keys for. */
  role: Role | undefined;
  /** The areas to check; undefined: all. */
  only: string[] | undefined;
  strict: boolean;
  format: Format;
  stop: AbortSignal;
}

/** Prints the findings. Returns 1 if there is a problem; with `strict`, 2 if there are only warnings. */
export async function doctorCommand({ source, role, only, strict, format, stop }: DoctorCommand): Promise<0 | 1 | 2> {
  const wanted = only === undefined ? areas : only.map(areaOf);
  const findings: Finding[] = [];
  const report = reportTo(findings, 'configuration');
  const examined = examineConfig(source);
  const { faults } = examined;
  const config = examined.config && beside(examined.config, examined, source.env, report);
  const file = configFile(source);
  const advice = file
    ? 'See docs/configuration.md, or `lxstow config`.'
    : 'No configuration file was found: name one with `lxstow -c FILE doctor`, or create /etc/lxstow/lxstow.yaml.';
  for (const fault of faults) report('problem', fault, advice);
  examineNode(report);
  if (config) {
    examineGzip(config, report);
    if (file) await examineFile(file, secrets.some(examineConfig({ file, env: {} }).isGiven), report);
    const running = role ? [role] : rolesIn(examined, config !== examined.config);
    findings.push(...(await examineAll({ config, env: source.env, roles: running }, wanted, stop)));
  }
  const shown = findings.filter(({ area }) => wanted.includes(area) || (area === 'configuration' && !config));
  show(shown, format);
  if (shown.some(({ level }) => level === 'problem')) return 1;
  return strict && shown.some(({ level }) => level === 'warning') ? 2 : 0;
}

/** Adds standalone's NATS and store to the configuration. If their files cannot be read, reports that as a finding. */
function beside(config: Config, { isGiven }: Examined, env: NodeJS.ProcessEnv, report: Report): Config {
  try {
    return besideOwnNats(besideOwnStore(config, env), env, isGiven);
  } catch (error) {
    report('problem', (error as Error).message, 'sudo -u USER lxstow doctor');
    return config;
  }
}

async function examineAll(
  given: Pick<Patient, 'config' | 'env' | 'roles'>,
  wanted: readonly Area[],
  stop: AbortSignal,
): Promise<Finding[]> {
  const checks: Record<Area, Check> = {
    configuration: examineConfiguration,
    gateway: examineGateway,
    nats: examineOwnNats,
    s3: examineS3,
    lxd: examineLxd,
  };
  const used = (area: Area) =>
    area === 'gateway' ? given.roles.includes('gateway') : area !== 'lxd' || given.roles.includes('worker');
  const log = createLogger(given.config.log, {});
  log.silent = true;
  const patient = { ...given, log };
  const found = await Promise.all(
    areas
      .filter((area) => wanted.includes(area) && used(area))
      .map((area) => examine(area, checks[area], patient, stop)),
  );
  return found.flat();
}

/** Checks NATS. A server that is not standalone's own, but has its port, is reported and gets no password. */
async function examineOwnNats(patient: Patient, report: Report): Promise<void> {
  try {
    await assertOwnNats(patient.config, patient.env);
  } catch (error) {
    report('problem', messageOf(error), 'It got no password. To see what it is: `ss -ltnp`.');
    return;
  }
  await examineNats(patient, report);
}

/** A configuration with keys of only one role is for that role; one of `standalone`, whose NATS or store is here, for both. */
function rolesIn({ isGiven }: Examined, isStandalone: boolean): Role[] {
  if (isStandalone) return [...roles];
  const spokenOf = roles.filter((role) => isGiven([role]));
  return spokenOf.length > 0 ? spokenOf : [...roles];
}

const secrets = [
  ['s3', 'secretKey'],
  ['nats', 'password'],
  ['nats', 'token'],
  ['notify', 'secret'],
];

function areaOf(word: string): Area {
  const area = areas.find((each) => each === word);
  if (!area) throw new LxstowError('bad-request', `${JSON.stringify(word)} is not one of ${areas.join(', ')}`);
  return area;
}

function show(findings: Finding[], format: Format): void {
  const rows = findings.flatMap(({ level, area, finding, advice }) =>
    format === 'csv'
      ? [[level, area, finding, advice ?? '']]
      : [[level, area, finding], ...(advice ? [['', '', `→ ${advice}`]] : [])],
  );
  print(format, { heading: ['LEVEL', 'AREA', 'FINDING'], rows, raw: findings, empty: 'nothing was checked' });
  if (format !== 'table') return;
  const count = (level: string) => findings.filter((each) => each.level === level).length;
  process.stdout.write(
    `${count('ok')} ok, ${plural(count('warning'), 'warning')}, ${plural(count('problem'), 'problem')}\n`,
  );
}
