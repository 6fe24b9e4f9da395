#!/usr/bin/env nextflow
// Registers every row of a manifest with Nextflow (DSL2, no deprecated syntax).
//
//   nextflow run examples/pipelines/main.nf --cohort cohort.tsv --out out -resume
//
// cohort.tsv: columns id, fixed, moving, with tabs; give absolute paths. Each case runs in a folder of its own; what is
// complete, told by its run.json, is copied to OUT/<id>/. A case that fails is told, and the others go on:
// nextflow.config beside this file makes Nextflow leave with an error all the same.

params.cohort = 'cohort.tsv'
params.out = 'out'
params.options = ''

process REGISTER {
    tag "${id}"
    publishDir "${params.out}", mode: 'copy'
    cpus 2
    memory '4 GB'
    time '1 h'
    // 75: busy; 137, 140, 143: killed by the scheduler. Bad data (65) is as bad the second time.
    errorStrategy { task.exitStatus in [75, 137, 140, 143] ? 'retry' : 'ignore' }
    maxRetries 1

    input:
    tuple val(id), path(fixed, stageAs: 'fixed/*'), path(moving, stageAs: 'moving/*')

    output:
    tuple val(id), path("${id}/run.json"), emit: record
    path "${id}/*", emit: files

    script:
    """
    neuroreg register ${fixed} ${moving} -o '${id}' --threads ${task.cpus} ${params.options}
    """
}

workflow {
    cases = channel
        .fromPath(params.cohort, checkIfExists: true)
        .splitCsv(header: true, sep: '\t')
        .map { row -> tuple(row.id, file(row.fixed, checkIfExists: true), file(row.moving, checkIfExists: true)) }
    REGISTER(cases)
}
